"""A worker process: feeds by number, as the server orders. It ends when the server's side of the socket does."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import socket

import cv2
import torch

from lensmount.errors import LensmountError
from lensmount_server.workers.block import Block
from lensmount_server.workers.feed import Feed
from lensmount_server.workers.messages import (
    MAX_MESSAGE,
    Close,
    Ended,
    Look,
    Next,
    Open,
    Order,
    Packet,
    Ping,
    Pong,
    Prepare,
    Report,
    read_order,
    report_bytes,
    words,
)

_PR_SET_PDEATHSIG = 1


def run_worker(connection: socket.socket, memory: int) -> None:
    """The whole life of a worker; returns when the server is gone."""
    _settle()
    worker = Worker(connection, memory)
    while data := connection.recv(MAX_MESSAGE):
        worker.obey(read_order(data))


class Worker:
    """The feeds of this process, and who to tell about them."""

    def __init__(self, connection: socket.socket, memory: int) -> None:
        self._connection = connection
        self._memory = memory
        self._feeds: dict[int, Feed] = {}

    def obey(self, order: Order) -> None:
        """Does what the server says; nothing here waits for a video."""
        if isinstance(order, Ping):
            self._send(Pong())
        elif isinstance(order, Open):
            self._open(order)
        elif order.feed in self._feeds:
            self._pass_on(self._feeds[order.feed], order)

    def _open(self, order: Open) -> None:
        try:
            self._feeds[order.feed] = Feed(order.feed, order.plan, Block(self._memory, order.feed), self._send)
        except LensmountError as error:
            self._send(Ended(order.feed, words(error)))

    def _pass_on(self, feed: Feed, order: Order) -> None:
        match order:
            case Next():
                feed.ask(order)
            case Packet():
                feed.push(order)
            case Prepare():
                feed.prepare(order)
            case Look():
                feed.look(order.looking)
            case Close():
                del self._feeds[order.feed]
                feed.close()

    def _send(self, report: Report) -> None:
        try:
            self._connection.send(report_bytes(report))
        except OSError:  # the server is gone, and with it who would read this
            os._exit(0)


def _settle() -> None:
    """Dies with the zygote, leaves no core, computes in the threads of its feeds alone, and ends by its socket only."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="worker %(process)d: %(message)s")
