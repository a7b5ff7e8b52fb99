"""Forks worker processes: a small process that has loaded what they need, and runs nothing itself.

A fork takes some milliseconds and shares memory with the others, where a fresh Python would load for seconds. As
the parent of all workers the zygote alone ends them and reads how they ended, so a process number is never
somebody else's. When the server goes away, so do the zygote and its workers.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

from lensmount.errors import UnavailableError

_MESSAGE = 4096
_ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
_PATIENCE_S = 60.0


class Zygote:
    """The server's hand on its zygote, which starts loading at once. Its methods block; any thread may call them.

    Each raises UnavailableError when the zygote is gone.
    """

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_PATIENCE_S)
        self._lock = threading.Lock()
        with other:
            command = [sys.executable, "-m", __name__, str(other.fileno())]
            self._process = subprocess.Popen(  # noqa: S603 - this very Python and this very module
                command,
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_ALONE},
                start_new_session=True,  # Ctrl-C in a terminal is for the server, which ends them in order
            )

    @property
    def alive(self) -> bool:
        """Whether it can fork."""
        return self._process.poll() is None

    def fork(self, connection: socket.socket, memory: int) -> int:
        """A new worker with its end of a socket and the memory; returns its process number."""
        return int(self._call({"do": "fork"}, [connection.fileno(), memory]))

    def kill(self, worker: int) -> None:
        """End a worker at once."""
        self._call({"do": "kill", "worker": worker})

    def status(self, worker: int) -> int | None:
        """How a worker ended: minus the signal, or its exit code; None while it runs. Once told, it is forgotten."""
        status = self._call({"do": "status", "worker": worker})
        return None if status is None else int(status)

    def close(self) -> None:
        """End it, and with it all its workers: they die with their parent."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _call(self, message: dict[str, Any], descriptors: list[int] | None = None) -> Any:
        try:
            with self._lock:
                socket.send_fds(self._socket, [json.dumps(message).encode()], descriptors or [])
                answer = self._socket.recv(_MESSAGE)
        except OSError as error:
            raise _gone(str(error)) from error
        if not answer:
            raise _gone("it ended")
        return json.loads(answer)


def _gone(why: str) -> UnavailableError:
    fix = "look into the log; restart the server if it does not come back"
    return UnavailableError(f"no worker process can be started: {why}", fix=fix)


def main(descriptor: int) -> None:
    """The zygote itself."""
    from lensmount_server.workers.worker import run_worker  # noqa: PLC0415 - the server's side does not need it

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    workers: set[int] = set()
    with socket.socket(fileno=descriptor) as server:
        while True:
            data, descriptors, _, _ = socket.recv_fds(server, _MESSAGE, 2)
            if not data:
                break
            message = json.loads(data)
            if message["do"] == "fork":
                worker = os.fork()
                if worker == 0:
                    server.close()
                    run_worker(socket.socket(fileno=descriptors[0]), descriptors[1])
                    os._exit(0)
                workers.add(worker)
                for each in descriptors:
                    os.close(each)
                answer: int | None = worker
            else:
                answer = _serve(message["do"], message["worker"], workers)
            server.send(json.dumps(answer).encode())
    for worker in workers:
        os.kill(worker, signal.SIGKILL)


def _serve(what: str, worker: int, workers: set[int]) -> int | None:
    if worker not in workers:
        return 0
    if what == "kill":
        os.kill(worker, signal.SIGKILL)
        return None
    ended, status = os.waitpid(worker, os.WNOHANG)
    if not ended:
        return None
    workers.discard(worker)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main(int(sys.argv[1]))
