from __future__ import annotations

from pathlib import Path

import pytest

from lensmount.errors import InvalidInputError
from lensmount_server.backends import TRITON, Backend, check_backend
from lensmount_server.config import ServeConfig
from lensmount_server.endpoints import parse_address
from lensmount_server.engine.settings import EngineSettings

TORCH: Backend = "torch"
PLAIN = EngineSettings()


def test_what_goes_together() -> None:
    check_backend(TORCH, (), EngineSettings("reference"))
    check_backend(TRITON, ("localhost:8001", "[::1]:8001"), PLAIN)


@pytest.mark.parametrize(
    ("backend", "urls", "settings", "field"),
    [
        (TRITON, (), PLAIN, "triton_url"),
        (TORCH, ("localhost:8001",), PLAIN, "backend"),
        (TRITON, ("localhost",), PLAIN, "triton_url"),
        (TRITON, (":8001",), PLAIN, "triton_url"),
        (TRITON, ("localhost:http",), PLAIN, "triton_url"),
        (TRITON, ("",), PLAIN, "triton_url"),
        (TRITON, ("a:1", "a:1"), PLAIN, "triton_url"),
        (TRITON, ("http://a:1",), PLAIN, "triton_url"),
        (TRITON, ("grpc://[::1]:8001/v2",), PLAIN, "triton_url"),
        (TRITON, ("unix:/run/triton:1",), PLAIN, "triton_url"),
        (TRITON, ("a:1",), EngineSettings(precision="bf16"), "backend"),
    ],
)
def test_what_does_not(backend: Backend, urls: tuple[str, ...], settings: EngineSettings, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ServeConfig(Path("data"), backend=backend, triton_urls=urls, engine=settings)
    assert caught.value.field == field
    assert caught.value.fix


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("http://127.0.0.1:8001", "127.0.0.1:8001"),
        ("https://triton:8001/", "triton:8001"),
        ("triton:8001/v2/models", "triton:8001"),
        ("grpc://[::1]:8001", "[::1]:8001"),
        ("http://triton", "localhost:8001"),
        ("unix:/run/triton:1", "localhost:8001"),
    ],
)
def test_a_url_is_refused_with_the_address_to_write(url: str, written: str) -> None:
    with pytest.raises(InvalidInputError, match="not a URL") as caught:
        parse_address(url, "triton_url", "localhost:8001")
    assert caught.value.fix.startswith(f"write {written}:")
    assert parse_address(written, "triton_url", "") == (written.rpartition(":")[0], 8001)
