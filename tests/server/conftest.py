"""A small backbone with packages for the whole run, and a real server for each test that wants one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving import Kit, Served, build_kit, serving


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return build_kit(tmp_path_factory.mktemp("kit"))


@pytest.fixture
async def server(kit: Kit, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(kit, tmp_path / "data") as served:
        yield served


@pytest.fixture
async def live(kit: Kit, server: Served) -> Served:
    """A server on which `defect` (first version), `surface` and `grade` are live."""
    for version in (kit.defect[0], kit.surface, kit.grade):
        await server.client.register(version.folder, alias="live")
    return server
