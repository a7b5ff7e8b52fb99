"""The ways in which a camera of the soak fails, each until it is well again."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from lensmount_server.bench.cores import descendants
from rtsp_server import RtspServer

DOWN_S, FROZEN_S = 4.0, 8.0

# Makes a camera of a server (by its process number) fail, and well again.
Failure = Callable[[RtspServer, int], None]


def restarted(camera: RtspServer, _: int) -> None:
    """The camera's process dies, and is started again after some seconds."""
    camera.kill()
    time.sleep(DOWN_S)
    camera.start()


def frozen(camera: RtspServer, _: int) -> None:
    """The camera says nothing, and its connection stays."""
    camera.freeze()
    time.sleep(FROZEN_S)
    camera.thaw()


def garbled(camera: RtspServer, _: int) -> None:
    """Something else answers at the camera's address, with bytes that mean nothing."""
    camera.kill()
    with _garbage(camera.port):
        time.sleep(DOWN_S)
    camera.start()


def worker_killed(_: RtspServer, server: int) -> None:
    """A process that decodes some camera is killed from outside: the server's grandchildren are those."""
    zygotes = [child for child in descendants(server) if descendants(child)]
    workers = [worker for zygote in zygotes for worker in descendants(zygote)]
    os.kill(random.choice(workers), signal.SIGKILL)


def elsewhere(_: RtspServer, __: int) -> None:
    """No failure: a camera that is nobody's source starts and ends, which costs the machine what a restart does."""
    with RtspServer():
        time.sleep(DOWN_S)


FAILURES: Mapping[str, Failure] = {
    "killed and restarted": restarted,
    f"frozen for {FROZEN_S:g} s": frozen,
    "garbage at its address": garbled,
    "a decoder killed": worker_killed,
}
CONTROLS: Mapping[str, Failure] = {"control: a camera elsewhere": elsewhere}


@contextmanager
def _garbage(port: int) -> Iterator[None]:
    """Accepts connections at a port of loopback and sends random bytes to each."""
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(0.1)
        over = threading.Event()
        thread = threading.Thread(target=_babble, args=(server, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _babble(server: socket.socket, over: threading.Event) -> None:
    noise = random.Random(7)
    while not over.is_set():
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        with connection:
            try:
                connection.sendall(noise.randbytes(65_536))
            except OSError:  # whoever connected has seen enough
                continue
