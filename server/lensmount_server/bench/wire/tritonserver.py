"""A real Triton Inference Server on loopback, a process of its own."""

from __future__ import annotations

import ctypes.util
import os
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lensmount.errors import UnavailableError
from lensmount.serving import ended

FOLDER, VARIABLE = Path(".triton"), "LENSMOUNT_TRITON"
FIX = f"run tests/install-triton in a checkout, or give --triton (or {VARIABLE}) the folder of a Triton"
START_S = 600.0


@dataclass(frozen=True)
class Installed:
    """Where a Triton is: its folder, its program, its backends, and the libraries that it brings."""

    home: Path
    program: Path
    backends: Path
    libraries: Path


def find(folder: Path | None) -> Installed:
    """The Triton in a folder: as tests/install-triton makes it, or as in NVIDIA's containers.

    Raises UnavailableError where there is none, or its Python backend can not run.
    """
    home = (folder or FOLDER).resolve()
    inner = home / "packages" / "pytriton" / "tritonserver"
    forms = (
        Installed(home, inner / "bin" / "tritonserver", home / "backends", home / "packages" / "nvidia_pytriton.libs"),
        Installed(home, home / "bin" / "tritonserver", home / "backends", home / "lib"),
    )
    found = next((each for each in forms if each.program.exists()), None)
    if found is None:
        raise UnavailableError("there is no Triton here to measure beside", field="triton", value=home, fix=FIX)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shared = Path(str(sysconfig.get_config_var("LIBDIR"))) / f"libpython{version}.so.1.0"
    if not shared.exists() and ctypes.util.find_library(f"python{version}") is None:
        fix = "use a Python with a shared library (--enable-shared)"
        message = "this Python has no shared library, which Triton's Python backend needs"
        raise UnavailableError(message, field="triton", value=sys.executable, fix=fix)
    return found


@contextmanager
def running(installed: Installed, repository: Path, models: Sequence[str], scratch: Path) -> Iterator[str]:
    """Serves these models of a repository until the `with` block ends; gives HOST:PORT of its gRPC.

    Raises UnavailableError when it does not start.
    """
    log, port = scratch / "triton.log", free_port()
    url, command = f"127.0.0.1:{port}", command_of(installed, repository, models, port)
    environment = environment_of(installed, scratch / "python")
    with (
        log.open("ab") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process,  # noqa: S603 - our own
        ended(process),
    ):
        _wait_for(url, process, log)
        yield url


def command_of(installed: Installed, repository: Path, models: Sequence[str], port: int) -> list[str]:
    """How it is started: on loopback, these models of a repository loaded, no others."""
    own = {
        "model-repository": repository,
        "backend-directory": installed.backends,
        "model-control-mode": "explicit",
        "allow-http": "false",
        "allow-metrics": "false",
        "grpc-address": "127.0.0.1",
        "grpc-port": port,
    }
    options = [f"--{name}={value}" for name, value in own.items()]
    return [str(installed.program), *options, *(f"--load-model={model}" for model in models)]


def environment_of(installed: Installed, python: Path) -> dict[str, str]:
    """What it runs in. Its stub looks for packages beside the first `python3` on PATH, and nowhere else."""
    venv.EnvBuilder(symlinks=True).create(python)
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(python), "platbase": str(python)}))
    paths = [path for path in sys.path if path and Path(path).is_dir()]
    (site / "lensmount.pth").write_text("\n".join(paths) + "\n")
    libraries = f"{installed.libraries}:{sysconfig.get_config_var('LIBDIR')}"
    return {**os.environ, "LD_LIBRARY_PATH": libraries, "PATH": f"{python / 'bin'}:{os.environ['PATH']}"}


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    with grpc.insecure_channel(url) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while time.monotonic() < until and process.poll() is None:
            with suppress(grpc.RpcError):
                if stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=1).ready:
                    return
            time.sleep(0.1)
    told = log.read_text(errors="replace")[-2000:]
    raise UnavailableError("Triton did not start", field="triton", value=log, fix=told)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
