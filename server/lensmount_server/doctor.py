"""Is this machine ready to serve? One line for each thing that must be right, with its fix."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import av
import torch

from lensmount.errors import InvalidInputError, LensmountError
from lensmount_adapters.backbones import Backbone, load_backbone
from lensmount_adapters.backbones.backbone import create_model
from lensmount_adapters.backbones.default import BUNDLED
from lensmount_adapters.backbones.weights import find_weights
from lensmount_server.backends import TRITON
from lensmount_server.config import ServeConfig
from lensmount_server.engine.cores import cores
from lensmount_server.engine.opening import check_cuda, choose
from lensmount_server.remembered import choose_backbone

PACKAGES = (
    "lensmount",
    "torch",
    "timm",
    "openvino",
    "av",
    "opencv-python-headless",
    "grpcio",
    "protobuf",
    "safetensors",
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `fix` says what to do where it is not `ok`."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


def examine(config: ServeConfig) -> Iterator[Finding]:
    """Look at everything that `lensmount serve` with this config needs."""
    yield _python()
    yield from map(_package, PACKAGES)
    yield _device()
    yield from _model(config)
    yield _decoder("h264", "decode H.264 streams")
    yield _decoder("hevc", "decode H.265 streams")
    yield _encoder()
    yield _data_dir(config)
    yield _port(config)


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("python", sys.version_info >= (3, 11), found, "install Python 3.11 or newer")


def _package(name: str) -> Finding:
    try:
        return Finding(name, ok=True, detail=version(name))
    except PackageNotFoundError:
        return Finding(name, ok=False, detail="not installed", fix="pip install 'lensmount[server]'")


def _device() -> Finding:
    threads = f"{torch.get_num_threads()} computing threads on {cores()} cores"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    unused = f"; with --device cuda: {', '.join(gpus)}" if gpus else "; no GPU"
    return Finding("device", ok=True, detail=f"cpu, {threads}{unused}")


def _model(config: ServeConfig) -> Iterator[Finding]:
    """The backbone's weights, and where they are right, what will compute and in which precision."""
    weights = _weights(config)
    if isinstance(weights, Finding):
        yield weights
        return
    backbone, path = weights
    yield Finding(f"weights of {backbone.name}", ok=True, detail=f"{backbone.fingerprint[:12]} from {path}")
    if config.backend == TRITON:
        yield from (_triton(backbone, url) for url in config.triton_urls)
    else:
        yield _engine(config, backbone)


def _engine(config: ServeConfig, backbone: Backbone) -> Finding:
    try:
        if config.engine.device == "cuda":
            check_cuda(config.engine)
            return Finding("engine", ok=True, detail="slots and one kernel on the GPU")
        table = choose(backbone, config.engine)
    except LensmountError as error:
        return Finding("engine", ok=False, detail=error.message, fix=error.fix)
    if table is None:
        return Finding("engine", ok=True, detail="reference in fp32: the plain one, for comparison")
    measured = ", ".join(
        f"{each.engine} {each.precision} {each.eight_rows_ms:.0f} ms{' (too coarse)' if each.too_coarse else ''}"
        for each in table.candidates
    )
    chosen = table.chosen
    return Finding("engine", ok=True, detail=f"{chosen.engine} in {chosen.precision}; 8 frames: {measured}")


def _triton(backbone: Backbone, url: str) -> Finding:
    from lensmount_server.triton.fleet import examined  # noqa: PLC0415 - loaded by those alone who have a Triton

    try:
        return Finding(f"triton {url}", ok=True, detail=examined(backbone, url))
    except LensmountError as error:
        return Finding(f"triton {url}", ok=False, detail=error.message, fix=error.fix)


def _weights(config: ServeConfig) -> Finding | tuple[Backbone, Path]:
    chosen = choose_backbone(config.backbone, config.data_dir)
    name = f"weights of {chosen}"
    try:
        create_model(chosen)
        path = config.weights or find_weights(chosen)
        if path is None:
            detail = "not on this machine; the first start downloads them from timm's hub"
            fix = f"start once with a network, give --weights FILE, or use --backbone {BUNDLED}"
            return Finding(name, ok=False, detail=detail, fix=fix)
        return load_backbone(chosen, path), path
    except LensmountError as error:
        return Finding(name, ok=False, detail=error.message, fix=error.fix)
    except OSError as error:
        fix = "make that place readable and writable, or give --weights FILE"
        return Finding(name, ok=False, detail=str(error), fix=fix)


def _decoder(codec: str, purpose: str) -> Finding:
    there = codec in av.codecs_available
    return Finding(f"FFmpeg {codec}", there, purpose, "install PyAV from its wheel: pip install --force-reinstall av")


def _encoder() -> Finding:
    there = "libx264" in av.codecs_available
    fix = "install PyAV from its wheel: pip install --force-reinstall av"
    return Finding("FFmpeg libx264", there, "write annotated videos", fix)


def _data_dir(config: ServeConfig) -> Finding:
    folder = config.data_dir.absolute()
    existing = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    return Finding("data directory", writable, str(folder), "give --data-dir a folder that you may write")


def _port(config: ServeConfig) -> Finding:
    try:
        _listen(*config.host_port)
    except InvalidInputError as error:
        return Finding("address", ok=False, detail=error.message, fix=error.fix)
    except OSError as error:
        fix = "stop what listens there, or give --address another port"
        return Finding("address", ok=False, detail=f"{config.address}: {error.strerror}", fix=fix)
    return Finding("address", ok=True, detail=f"{config.address} is free")


def _listen(host: str, port: int) -> None:
    """Take the address for a moment, as a server does; raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
