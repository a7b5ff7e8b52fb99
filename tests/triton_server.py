"""A real Triton Inference Server on loopback, without GPU or container (`tests/install-triton` installs it)."""

from __future__ import annotations

import ctypes.util
import functools
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".triton"
PACKAGES = ("proto", "adapters", "server")
START_S = 200.0


class TritonServer:
    """Serves a model repository, its models loaded. Kill it, stop it, start it again on the same port."""

    def __init__(self, repository: Path, scratch: Path, models: Sequence[str] = ("lensmount",)) -> None:
        self.repository = repository
        self._models = models
        self._log = scratch / "triton.log"
        self._python = _python_home(scratch / "python")
        self.port = _free_port()
        self._channel = grpc.insecure_channel(self.url)
        self.stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self.start()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, env=self._environment())
        for _ in range(round(START_S / 0.1)):
            if self._ready():
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

    def kill(self) -> None:
        stubs = self._stubs()
        with self._process:
            self._process.kill()
        for stub in stubs:
            with suppress(ProcessLookupError):
                os.kill(stub, signal.SIGKILL)

    def kill_stubs(self) -> None:
        """End the processes that run the models; this Triton starts them again only when they are loaded anew."""
        for stub in self._stubs():
            os.kill(stub, signal.SIGKILL)

    def restart(self) -> None:
        """Kill it and start it anew: nothing that was mounted is there any more."""
        self.kill()
        self.start()

    def revive(self) -> None:
        """Let it run, whatever was done to it."""
        if self._process.poll() is None and self._stubs():
            self.thaw()
        else:
            self.restart()

    def unload(self) -> None:
        for model in self._models:
            self.stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name=model), timeout=30)

    def load(self) -> None:
        for model in self._models:
            self.stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name=model), timeout=60)

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

    def _stubs(self) -> list[int]:
        """The children of the server, by its own list."""
        found: list[int] = []
        for task in Path(f"/proc/{self._process.pid}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, task.read_text().split())
        return found

    def _command(self) -> list[str]:
        own = {
            "model-repository": self.repository,
            "backend-directory": HOME / "backends",
            "model-control-mode": "explicit",
            "allow-http": "false",
            "allow-metrics": "false",
            "grpc-address": "127.0.0.1",
            "grpc-port": self.port,
        }
        loaded = [f"--load-model={model}" for model in self._models]
        server = HOME / "packages" / "pytriton" / "tritonserver" / "bin" / "tritonserver"
        return [str(server), *(f"--{name}={value}" for name, value in own.items()), *loaded]

    def _environment(self) -> dict[str, str]:
        libraries = f"{HOME / 'packages' / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
        path = f"{self._python}:{os.environ['PATH']}"
        return {**os.environ, "LD_LIBRARY_PATH": libraries, "PATH": path, "HF_HUB_OFFLINE": "1"}


@functools.cache
def why_no_triton() -> str:
    """What is missing for a Triton here; empty where nothing is."""
    if not (HOME / ".ready-2.51").exists():
        return "no Triton here: run tests/install-triton"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shared = Path(str(sysconfig.get_config_var("LIBDIR"))) / f"libpython{version}.so.1.0"
    if not shared.exists() and ctypes.util.find_library(f"python{version}") is None:
        return "this Python has no shared library, which Triton's Python backend needs"
    return ""


def needs_triton() -> None:
    """Skips the test where there is no Triton."""
    if why_no_triton():
        pytest.skip(why_no_triton())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _python_home(folder: Path) -> Path:
    """An environment with this checkout and all that is installed beside the tests; its folder of programs.

    Triton's stub ignores PYTHONPATH, and looks for packages beside the first `python3` on PATH.
    """
    venv.EnvBuilder(symlinks=True).create(folder)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    installed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "tests.pth").write_text("\n".join([*(str(ROOT / name) for name in PACKAGES), *installed]) + "\n")
    return folder / "bin"
