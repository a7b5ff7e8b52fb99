from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from ledger import check_whole
from lensmount.errors import NotFoundError
from lensmount_server.registry import Places, Registry, removing, usage
from registries import Shelf, add_all, numbers


def left(registry: Registry, task: str = "defect") -> list[int]:
    return sorted(version for name, version in numbers(registry) if name == task)


@pytest.mark.parametrize(("keep", "stay"), [(0, []), (1, [6]), (3, [4, 5, 6]), (6, [1, 2, 3, 4, 5, 6]), (99, None)])
def test_the_newest_stay(registry: Registry, shelf: Shelf, keep: int, stay: list[int] | None) -> None:
    add_all(registry, shelf, 6)
    would = registry.collect(keep, dry_run=True)
    assert left(registry) == [1, 2, 3, 4, 5, 6]
    done = registry.collect(keep)
    assert done == would
    assert left(registry) == (stay if stay is not None else [1, 2, 3, 4, 5, 6])
    assert len(done.removed) == 6 - len(left(registry))
    assert done.size_bytes == sum(shelf.package(str(each.version))[0].size_bytes for each in done.removed)
    assert registry.collect(keep).removed == ()


def test_what_somebody_needs_stays(registry: Registry, other: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 9)
    add_all(registry, shelf, 3, "surface")
    registry.set_alias("defect", "live", 3)
    registry.set_alias("defect", "canary", 5)
    registry.pin("defect", 1, "")
    other.use([("defect", 6)])
    registry.use([("surface", 1)])
    assert registry.collect(1, "surface").removed == (registry_id(shelf, "surface", 2),)
    registry.collect(1)
    assert left(registry) == [1, 3, 5, 6, 9]
    assert left(registry, "surface") == [1, 3]
    other.unuse([("defect", 6)])
    registry.pin("defect", 1, None)
    registry.collect(1)
    assert left(registry) == [3, 5, 9]


def registry_id(shelf: Shelf, task: str, version: int) -> object:
    from lensmount_server.frames import VersionId  # noqa: PLC0415

    return VersionId(task, version, shelf.package(str(version), task)[0].content_hash)


def test_a_server_that_stopped_or_died_needs_nothing(
    registry: Registry, tmp_path: Path, places: Places, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_all(registry, shelf, 4)
    stopped, died = Registry(tmp_path / "stopped", places), Registry(tmp_path / "died", places)
    stopped.use([("defect", 1)])
    died.use([("defect", 2)])
    stopped.close()
    registry.collect(1)
    assert left(registry) == [2, 4]
    later = time.time_ns() + usage.DEAD_NS + 1
    monkeypatch.setattr(time, "time_ns", lambda: later)
    registry.beat()
    registry.collect(1)
    assert left(registry) == [4]
    died.close()


def test_the_last_versions_that_a_rollback_would_find_stay(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 12)
    for version in range(1, 11):
        registry.set_alias("defect", "live", version)
    registry.delete("defect", 8)
    registry.delete("defect", 7)
    registry.collect(0)
    assert left(registry) == [3, 4, 5, 6, 9, 10]
    found = []
    for _ in range(removing.BACK):
        target, expected = registry.rollback_target("defect", "live")
        found.append(registry.roll_back(target, "live", expected).version.version)
    assert found == [9, 6, 5, 4, 3]
    with pytest.raises(NotFoundError):
        registry.rollback_target("defect", "live")


def test_going_to_and_fro_does_not_use_up_what_a_rollback_finds(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 8)
    for version in (1, 2, 3, 4, 5, 6, *(7, 6) * 10, 7):
        registry.set_alias("defect", "live", version)
    registry.collect(0)
    assert left(registry) == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("seed", range(4))
def test_after_any_history_all_rollbacks_that_are_promised_work(
    registry: Registry, places: Places, shelf: Shelf, seed: int
) -> None:
    draw = random.Random(seed)
    add_all(registry, shelf, 12)
    for _ in range(40):
        registry.set_alias("defect", draw.choice(["live", "canary"]), draw.randint(1, 12))
    keep = draw.randint(0, 3)
    promised = {alias: _targets(registry, alias)[: removing.BACK] for alias in ("live", "canary")}
    registry.collect(keep)
    for alias, targets in promised.items():
        for version in targets:
            assert registry.rollback_target("defect", alias, version)[0].version.version == version
    assert set(left(registry)) >= set(range(13 - keep, 13))
    check_whole(registry, places)


def _targets(registry: Registry, alias: str) -> list[int]:
    """Versions that rollbacks would find, the nearest first, by the journal alone."""
    entries = {entry.seq: entry for entry in registry.since(0, 1000)}
    now = next(entry for entry in reversed(entries.values()) if entry.alias == alias)
    found: list[int] = []
    at = now.back
    while at:
        found.append(entries[at].version.version)
        at = entries[at].back
    return [version for version in dict.fromkeys(found) if version != now.version.version]


@pytest.mark.parametrize("at_once", [1, 2, 5, 6])
def test_whatever_goes_at_once_in_the_end_all_goes(
    registry: Registry, shelf: Shelf, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensmount_server.registry.registry.COLLECTED_AT_ONCE", at_once)
    add_all(registry, shelf, 6)
    registry.set_alias("defect", "live", 2)
    done = registry.collect(1)
    assert [each.version for each in done.removed] == [1, 3, 4, 5]
    assert left(registry) == [2, 6]
