"""Tritons for the whole run; each test finds them running, whatever the one before did to them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving import Kit
from triton_server import TritonServer, needs_triton
from tritons import model_of


@pytest.fixture(scope="session")
def started(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TritonServer]]:
    needs_triton()
    folder = tmp_path_factory.mktemp("triton")
    repository = model_of(kit, folder / "models")
    servers: list[TritonServer] = []
    try:
        for name in ("first", "second"):
            (folder / name).mkdir()
            servers.append(TritonServer(repository, folder / name))
        yield servers
    finally:
        for server in servers:
            server.__exit__()


@pytest.fixture
def triton(started: list[TritonServer]) -> TritonServer:
    started[0].revive()
    return started[0]


@pytest.fixture
def both(started: list[TritonServer]) -> list[TritonServer]:
    for server in started:
        server.revive()
    return started
