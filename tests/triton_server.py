"""A real Triton Inference Server on loopback, without GPU or container (`tests/install-triton` installs it)."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lensmount.errors import UnavailableError
from lensmount_server.bench.wire.tritonserver import command_of, environment_of, find, free_port

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".triton"
START_S = 200.0
SHARED = Path("/dev/shm")  # noqa: S108 - where Linux keeps what shm_open names
REGION = "triton_python_backend_shm_region_"


class TritonServer:
    """Serves a model repository, its models loaded. Kill it, stop it, start it again on the same port.

    A Triton that is killed leaves the processes that run its models, and the shared memory that it had with them. They
    are ended and removed here, by the numbers and names that were its own.
    """

    def __init__(self, repository: Path, scratch: Path, models: Sequence[str] = ("lensmount",)) -> None:
        self.repository = repository
        self._models = models
        self._log = scratch / "triton.log"
        self.port = free_port()
        installed = find(HOME)
        self._command = command_of(installed, repository, models, self.port)
        self._environment = environment_of(installed, scratch / "python") | {"HF_HUB_OFFLINE": "1"}
        self._channel = grpc.insecure_channel(self.url)
        self.stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._left: dict[int, str] = {}
        self.start()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)
        for _ in range(round(START_S / 0.1)):
            if self._ready():
                self._note()
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        self.kill()
        pytest.fail(f"Triton did not start:\n{self.log[-4000:]}")

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        for _ in range(500):  # each thread stops when it is next on a core
            if all(state == "T" for state in self._states()):
                return
            time.sleep(0.01)
        pytest.fail("Triton did not stop")

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    @property
    def stubs(self) -> dict[int, str]:
        """The processes that run its models, each with the shared memory that it has with the server."""
        return {stub: region for stub in self._children() if (region := _region_of(stub))}

    def kill(self) -> None:
        """End the server without a chance to do anything, and what it leaves."""
        self._note()
        self.kill_alone()
        for stub, region in self._left.items():
            if _region_of(stub) == region:  # and not another process by the same number
                with suppress(ProcessLookupError):
                    os.kill(stub, signal.SIGKILL)
            (SHARED / region).unlink(missing_ok=True)
        self._left.clear()

    def kill_alone(self) -> None:
        """End the server, and leave what it leaves until `kill`."""
        with self._process:
            self._process.kill()

    def kill_stubs(self) -> None:
        """End the processes that run the models; this Triton starts them again only when they are loaded anew."""
        for stub in self._children():
            os.kill(stub, signal.SIGKILL)

    def restart(self) -> None:
        """Kill it and start it anew: nothing that was mounted is there any more."""
        self.kill()
        self.start()

    def revive(self) -> None:
        """Let it run, whatever was done to it."""
        if self._process.poll() is None and self._children():
            self.thaw()
        else:
            self.restart()

    def unload(self) -> None:
        for model in self._models:
            self.stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name=model), timeout=30)

    def load(self) -> None:
        for model in self._models:
            self.stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name=model), timeout=60)
        self._note()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self.kill()

    def _ready(self) -> bool:
        try:
            return bool(self.stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=1).ready)
        except grpc.RpcError:
            return False

    def _states(self) -> list[str]:
        """What the kernel says of each thread of the server."""
        stats = Path(f"/proc/{self._process.pid}/task").glob("*/stat")
        return [stat.read_text().rpartition(")")[2].split()[0] for stat in stats]

    def _note(self) -> None:
        """Remember what will have to be cleared away: one that is gone can not be asked."""
        self._left |= self.stubs

    def _children(self) -> list[int]:
        """By the server's own list."""
        found: list[int] = []
        for task in Path(f"/proc/{self._process.pid}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, task.read_text().split())
        return found


def _region_of(stub: int) -> str:
    """What a process that runs a model was told to share; "" for any other process."""
    try:
        words = Path(f"/proc/{stub}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return ""
    return next((word for word in words if word.startswith(REGION)), "")


@functools.cache
def why_no_triton() -> str:
    """What is missing for a Triton here; empty where nothing is."""
    if not (HOME / ".ready-2.51").exists():
        why_not = HOME / ".why-not-2.51"
        return why_not.read_text().strip() if why_not.exists() else "no Triton here: run tests/install-triton"
    try:
        find(HOME)
    except UnavailableError as error:
        return error.message
    return ""


def needs_triton() -> None:
    """Skips the test where there is no Triton."""
    if why_no_triton():
        pytest.skip(why_no_triton())
