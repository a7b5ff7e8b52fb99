from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lensmount.errors import UnavailableError
from lensmount_server.workers.block import create_memory
from lensmount_server.workers.messages import MAX_MESSAGE, Ping, Pong, order_bytes, read_report
from lensmount_server.workers.zygote import Zygote
from zygotes import shared_zygote


@contextmanager
def forked(zygote: Zygote) -> Iterator[tuple[int, socket.socket]]:
    memory = create_memory()
    ours, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with others:
            worker = zygote.fork(others, memory)
        os.close(memory)
        ours.settimeout(30)
        yield worker, ours


def ask(connection: socket.socket) -> object:
    connection.send(order_bytes(Ping()))
    return read_report(connection.recv(MAX_MESSAGE))


def soon(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def runs(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def ended(zygote: Zygote, worker: int) -> int:
    statuses: list[int] = []

    def told() -> bool:
        status = zygote.status(worker)
        statuses.extend([] if status is None else [status])
        return bool(statuses)

    soon(told)
    return statuses[0]


def test_a_worker_answers_and_ends_with_its_socket() -> None:
    zygote = shared_zygote()
    with forked(zygote) as (worker, connection):
        assert ask(connection) == Pong()
        assert zygote.status(worker) is None
    assert ended(zygote, worker) == 0
    assert not runs(worker)


def test_a_killed_worker_is_told_by_its_signal() -> None:
    zygote = shared_zygote()
    with forked(zygote) as (worker, connection):
        zygote.kill(worker)
        assert connection.recv(MAX_MESSAGE) == b""
        assert ended(zygote, worker) == -signal.SIGKILL


def test_only_its_own_workers_are_killed() -> None:
    zygote = shared_zygote()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        zygote.kill(stranger.pid)
        assert stranger.poll() is None
        with forked(zygote) as (worker, _):
            pass
        ended(zygote, worker)
        zygote.kill(worker)  # told and forgotten: that number may be anybody's
    finally:
        stranger.kill()
        stranger.wait()


def test_a_worker_ignores_ctrl_c() -> None:
    with forked(shared_zygote()) as (worker, connection):
        assert ask(connection) == Pong()
        os.kill(worker, signal.SIGINT)
        assert ask(connection) == Pong()


def test_workers_die_with_their_zygote_and_a_call_says_so() -> None:
    zygote = Zygote()
    with forked(zygote) as (worker, connection):
        assert ask(connection) == Pong()
        zygote.close()
        soon(lambda: not runs(worker))
        assert not zygote.alive
    with pytest.raises(UnavailableError, match="no worker process"):
        zygote.kill(worker)


SERVER = """
import os, socket, sys, time
from lensmount_server.workers.block import create_memory
from lensmount_server.workers.zygote import Zygote
zygote = Zygote()
ours, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
print(zygote.fork(others, create_memory()), zygote._process.pid, flush=True)
time.sleep(60)
"""


def test_nothing_is_left_when_the_server_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        worker, zygote = map(int, server.stdout.readline().split())
        assert runs(worker)
        server.kill()
    soon(lambda: not runs(worker) and not runs(zygote))
