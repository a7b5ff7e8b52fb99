"""Tritons for the whole run; each test finds them running, whatever the one before did to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import Kit
from triton_server import TritonServer, needs_triton
from tritons import model_of


@pytest.fixture(scope="session")
def hosted(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_triton()
    return model_of(kit, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def first(hosted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with TritonServer(hosted, tmp_path_factory.mktemp("first")) as server:
        yield server


@pytest.fixture(scope="session")
def second(hosted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with TritonServer(hosted, tmp_path_factory.mktemp("second")) as server:
        yield server


@pytest.fixture
def triton(first: TritonServer) -> TritonServer:
    first.revive()
    return first


@pytest.fixture
def both(first: TritonServer, second: TritonServer) -> list[TritonServer]:
    first.revive()
    second.revive()
    return [first, second]
