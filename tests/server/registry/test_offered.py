"""Where a package is, by its content: on trial, or registered."""

from __future__ import annotations

from pathlib import Path

import pytest

from houses import opened, register
from lensmount.errors import NotFoundError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.package import content_hash
from lensmount_server.mounts import Mounts
from serving import Kit


async def test_a_package_is_found_while_it_is_on_trial_and_when_it_is_registered(kit: Kit, tmp_path: Path) -> None:
    content = kit.surface.adapter.content_hash
    async with opened(kit, tmp_path / "data", Mounts()) as house:
        registry = house.catalog.registry
        with pytest.raises(NotFoundError):
            registry.package(content)
        with registry.offered(content, kit.surface.folder):
            assert registry.package(content) == kit.surface.folder
        with pytest.raises(NotFoundError):
            registry.package(content)
        await register(house.catalog, kit.surface.folder)
        assert content_hash(registry.package(content)) == content
        with registry.offered(content, kit.surface.folder):  # what is on trial may put a damaged one right
            assert registry.package(content) == kit.surface.folder
        with registry.offered(content, tmp_path / "moved"):
            assert content_hash(registry.package(content)) == content


async def test_the_registrar_offers_what_it_tries(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(kit, tmp_path / "data", Mounts()) as house:
        registry, mount = house.catalog.registry, house.engine.mount
        found: list[str] = []

        def noted(adapter: Adapter) -> None:
            found.append(registry.package(adapter.content_hash).name)
            mount(adapter)

        monkeypatch.setattr(house.engine, "mount", noted)
        await register(house.catalog, kit.grade.folder)
    assert found == ["package"]
