from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires
from importlib.metadata import version as real_version
from pathlib import Path

import av
import pytest
import torch

from lensmount.errors import UnavailableError
from lensmount_server import doctor
from lensmount_server.config import ServeConfig
from lensmount_server.doctor import PACKAGES, Finding, examine
from lensmount_server.engine.settings import EngineSettings
from serving import Kit

NAMES = [
    "python",
    *PACKAGES,
    "device",
    "weights of test_vit",
    "engine",
    "FFmpeg h264",
    "FFmpeg hevc",
    "FFmpeg libx264",
    "data directory",
    "address",
]
# Told for information; nothing can be wrong with it yet.
TELLING = ("device",)


@pytest.fixture
def settings(kit: Kit, tmp_path: Path) -> ServeConfig:
    return ServeConfig(tmp_path / "data", "127.0.0.1:0", "test_vit", kit.weights, EngineSettings("reference"))


def found(settings: ServeConfig, name: str) -> Finding:
    (finding,) = [finding for finding in examine(settings) if finding.name == name]
    return finding


def test_all_is_well_on_a_good_machine(settings: ServeConfig) -> None:
    findings = list(examine(settings))
    assert [finding.name for finding in findings] == NAMES
    assert [finding.name for finding in findings if not finding.ok] == []
    assert all(finding.detail for finding in findings)
    assert not settings.data_dir.exists()


def without(package: str) -> Callable[[str], str]:
    def version(name: str) -> str:
        if name == package:
            raise PackageNotFoundError(name)
        return real_version(name)

    return version


def old_python(monkeypatch: pytest.MonkeyPatch, _: str) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))


def no_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(doctor, "version", without(name))


def no_weights(monkeypatch: pytest.MonkeyPatch, _: str) -> None:
    monkeypatch.setattr(doctor, "find_weights", lambda _: None)


def no_engine(monkeypatch: pytest.MonkeyPatch, _: str) -> None:
    def refuse(*_: object) -> None:
        raise UnavailableError("OpenVINO is not installed", field="engine", fix="pip install 'lensmount[server]'")

    monkeypatch.setattr(doctor, "choose", refuse)


def no_codec(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {name.removeprefix("FFmpeg ")})


def no_write(monkeypatch: pytest.MonkeyPatch, _: str) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))


def no_port(monkeypatch: pytest.MonkeyPatch, _: str) -> None:
    def bind(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)


SPOIL: dict[str, Callable[[pytest.MonkeyPatch, str], None]] = {
    "python": old_python,
    **dict.fromkeys(PACKAGES, no_package),
    "weights of test_vit": no_weights,
    "engine": no_engine,
    "FFmpeg h264": no_codec,
    "FFmpeg hevc": no_codec,
    "FFmpeg libx264": no_codec,
    "data directory": no_write,
    "address": no_port,
}


def test_no_package_is_wanted_that_a_server_does_not_bring() -> None:
    needed = {re.split(r"[^\w-]", each, maxsplit=1)[0] for each in requires("lensmount") or () if "extra" not in each}
    server = [each for each in requires("lensmount") or () if re.search(r"extra == .(server|video).", each)]
    needed |= {re.split(r"[^\w-]", each, maxsplit=1)[0] for each in server}
    assert set(PACKAGES) - {"lensmount"} <= needed
    assert "peft" not in needed


def test_every_finding_that_can_be_bad_is_spoilt_here() -> None:
    assert [*SPOIL] == [name for name in NAMES if name not in TELLING]


@pytest.mark.parametrize("name", SPOIL)
def test_every_finding_can_be_bad_and_says_how_to_mend_it(
    settings: ServeConfig, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    SPOIL[name](monkeypatch, name)
    findings = list(examine(replace(settings, weights=None) if name.startswith("weights") else settings))
    (bad,) = [finding for finding in findings if not finding.ok]
    assert bad.name == name
    assert bad.detail
    assert bad.fix


def test_a_model_that_timm_does_not_have(settings: ServeConfig) -> None:
    finding = found(replace(settings, backbone="efficientnet_bo"), "weights of efficientnet_bo")
    assert not finding.ok
    assert "efficientnet_b" in finding.fix


@pytest.mark.parametrize("content", [None, b"damaged", b""])
def test_a_weights_file_that_can_not_be_read(settings: ServeConfig, tmp_path: Path, content: bytes | None) -> None:
    weights = tmp_path / "weights.safetensors"
    if content is not None:
        weights.write_bytes(content)
    finding = found(replace(settings, weights=weights), "weights of test_vit")
    assert not finding.ok
    assert "--weights" in finding.fix


def test_weights_of_another_model(settings: ServeConfig) -> None:
    finding = found(replace(settings, backbone="test_resnet"), "weights of test_resnet")
    assert not finding.ok
    assert "--weights" in finding.fix


def test_a_cache_that_can_not_be_written(settings: ServeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> Path:
        raise PermissionError(13, "Permission denied", "/home/somebody/.cache/lensmount")

    monkeypatch.setattr(doctor, "find_weights", refuse)
    finding = found(replace(settings, weights=None), "weights of test_vit")
    assert not finding.ok
    assert "Permission denied" in finding.detail
    assert finding.fix


def test_a_file_in_the_place_of_the_data_directory(settings: ServeConfig) -> None:
    settings.data_dir.write_text("")
    assert not found(settings, "data directory").ok
    assert not found(replace(settings, data_dir=settings.data_dir / "deeper" / "still"), "data directory").ok


def test_a_data_directory_that_can_be_made_is_well(settings: ServeConfig) -> None:
    assert found(replace(settings, data_dir=settings.data_dir / "deeper" / "still"), "data directory").ok
    assert found(replace(settings, data_dir=Path("relative")), "data directory").ok


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_that_somebody_listens_on(settings: ServeConfig, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        taken = found(replace(settings, address=f"{host}:{port}"), "address")
    assert not taken.ok
    assert "another port" in taken.fix
    assert found(replace(settings, address=f"{host}:{port}"), "address").ok


def test_a_port_whose_last_connection_has_just_ended_is_free(settings: ServeConfig) -> None:
    """The kernel keeps such a port for a minute, but not from a server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            listener.accept()[0].close()
            assert client.recv(1) == b""
    assert found(replace(settings, address=f"127.0.0.1:{port}"), "address").ok


def test_an_ipv6_address(settings: ServeConfig) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with listener:
        port = listener.getsockname()[1]
        assert not found(replace(settings, address=f"[::1]:{port}"), "address").ok
    assert found(replace(settings, address=f"[::1]:{port}"), "address").ok


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:99999", "192.0.2.1:0"])
def test_an_address_that_can_not_be(settings: ServeConfig, address: str) -> None:
    finding = found(replace(settings, address=address), "address")
    assert not finding.ok
    assert finding.fix


def test_a_host_that_nobody_knows(settings: ServeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    finding = found(replace(settings, address="camera-server:50051"), "address")
    assert not finding.ok
    assert "not known" in finding.detail


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(settings: ServeConfig) -> None:
    finding = found(replace(settings, engine=EngineSettings(device="cuda")), "engine")
    assert (finding.ok, finding.detail) == (False, "torch finds no GPU")
    assert "--device cpu" in finding.fix
