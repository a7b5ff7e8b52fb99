from __future__ import annotations

import pytest

from lensmount.errors import ConflictError, IncompatibleError, NotFoundError
from lensmount_server.registry import Change, Expected, Kind, Registry
from registries import ME, Shelf, add, add_all, numbers, points


def roll_back(registry: Registry, alias: str = "live", version: int | None = None) -> Change:
    """As the catalog does it: look where it goes, then go there."""
    target, expected = registry.rollback_target("defect", alias, version)
    return registry.roll_back(target, alias, expected, ME)


def test_an_alias_points_where_it_was_set_last(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 3)
    assert registry.set_alias("defect", "live", 1).previous == 0
    assert registry.set_alias("defect", "live", 3).previous == 1
    assert registry.set_alias("defect", "canary", 3).previous == 0
    assert registry.resolve("defect", "live").id.version == 3
    assert registry.get("defect", 3).aliases == ("canary", "live")
    assert registry.get("defect", 1).aliases == ()
    pointed, seq = registry.pointed()
    assert sorted((alias, version.version, by) for alias, version, by in pointed) == [("canary", 3, 6), ("live", 3, 5)]
    assert seq == 6
    assert registry.foreign("f" * 64) == 0
    assert registry.foreign("e" * 64) == 2


@pytest.mark.parametrize("expected", [Expected(version=2), Expected(version=0), Expected(version=7)])
def test_an_alias_that_somebody_moved_is_left_alone(registry: Registry, shelf: Shelf, expected: Expected) -> None:
    add_all(registry, shelf, 3)
    registry.set_alias("defect", "live", 1)
    for change in (
        lambda: registry.set_alias("defect", "live", 3, expected),
        lambda: registry.delete_alias("defect", "live", expected),
    ):
        with pytest.raises(ConflictError) as caught:
            change()
        assert (caught.value.field, caught.value.value) == ("expected_version", str(expected.version))
        assert "adapters show defect@live" in caught.value.fix
    assert registry.resolve("defect", "live").id.version == 1
    assert registry.set_alias("defect", "live", 3, Expected(version=1)).previous == 1


def test_an_etag_is_good_for_one_change(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 2)
    first = registry.set_alias("defect", "live", 1, Expected(etag="0"))
    assert registry.get("defect", 1).states[0].etag == first.etag
    assert registry.set_alias("defect", "live", 1, Expected(etag=first.etag)) == Change(
        first.version, "live", 1, first.seq
    )
    second = registry.set_alias("defect", "live", 2, Expected(etag=first.etag))
    for etag in (first.etag, "0", "", "nonsense"):
        with pytest.raises(ConflictError, match="somebody else") as caught:
            registry.set_alias("defect", "live", 1, Expected(etag=etag))
        assert (caught.value.field, caught.value.value) == ("etag", etag)
    registry.delete_alias("defect", "live", Expected(etag=second.etag))
    with pytest.raises(ConflictError):
        registry.set_alias("defect", "live", 2, Expected(etag=second.etag))
    assert registry.set_alias("defect", "live", 2, Expected(etag="0")).etag != second.etag


def test_an_alias_of_what_is_not_there_is_refused(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 1)
    for task, version in (("defect", 2), ("defect", 0), ("weather", 1), ("defect", 2**31), ("defect", 2**64)):
        with pytest.raises(NotFoundError, match=f"{task}:{version}"):
            registry.set_alias(task, "live", version)
    for task, alias in (("defect", "live"), ("weather", "live")):
        for call in (registry.resolve, registry.delete_alias, registry.rollback_target):
            with pytest.raises(NotFoundError, match=f"{task}@{alias}"):
                call(task, alias)
    assert points(registry) == {}


def test_rolling_back_twice_goes_back_two_versions(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 4)
    for version in (1, 2, 3):
        registry.set_alias("defect", "live", version)
    assert [roll_back(registry).version.version for _ in range(2)] == [2, 1]
    with pytest.raises(NotFoundError, match="no earlier version") as caught:
        roll_back(registry)
    assert (caught.value.field, caught.value.value) == ("alias", "defect@live")
    assert "history defect" in caught.value.fix
    registry.set_alias("defect", "live", 4)
    assert roll_back(registry).version.version == 1


def test_a_rollback_goes_to_a_version_that_is_named(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 4)
    for version in (1, 2, 3, 1):
        registry.set_alias("defect", "live", version)
    assert roll_back(registry, version=2).version.version == 2
    assert roll_back(registry).version.version == 1
    with pytest.raises(NotFoundError, match="never pointed") as caught:
        roll_back(registry, version=4)
    assert (caught.value.field, caught.value.value) == ("version", "defect:4")
    entry = registry.events(1)[0]
    assert (entry.kind, entry.version.version, entry.previous, entry.by) == (Kind.ROLLED_BACK, 1, 2, ME)


def test_a_rollback_passes_over_what_was_deleted(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 4)
    for version in (1, 2, 3, 4):
        registry.set_alias("defect", "live", version)
    registry.delete("defect", 3)
    registry.delete("defect", 2)
    assert roll_back(registry).version.version == 1


def test_a_rollback_that_was_overtaken_changes_nothing(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 3)
    registry.set_alias("defect", "live", 1)
    registry.set_alias("defect", "live", 2)
    target, expected = registry.rollback_target("defect", "live")
    registry.set_alias("defect", "live", 3)
    with pytest.raises(ConflictError):
        registry.roll_back(target, "live", expected)
    assert points(registry) == {("defect", "live"): 3}


@pytest.mark.parametrize("count", [1, 2])
def test_a_stale_etag_is_told_before_there_being_nothing_to_go_back_to(
    registry: Registry, shelf: Shelf, count: int
) -> None:
    add_all(registry, shelf, count)
    changes = [registry.set_alias("defect", "live", version) for version in range(1, count + 1)]
    with pytest.raises(ConflictError) as caught:
        registry.rollback_target("defect", "live", etag="1")
    assert (caught.value.field, caught.value.value) == ("etag", "1")
    if count == 2:
        assert registry.rollback_target("defect", "live", etag=changes[-1].etag)[0].version.version == 1


def test_an_alias_that_was_taken_away_begins_anew(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 3)
    registry.set_alias("defect", "live", 1)
    registry.set_alias("defect", "live", 2)
    registry.delete_alias("defect", "live", by=ME)
    with pytest.raises(NotFoundError):
        registry.resolve("defect", "live")
    registry.set_alias("defect", "live", 3)
    with pytest.raises(NotFoundError):
        registry.rollback_target("defect", "live")


def test_aliases_go_their_own_ways(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 3)
    add_all(registry, shelf, 2, "surface")
    for alias, version in (("live", 1), ("canary", 2), ("live", 3), ("canary", 1)):
        registry.set_alias("defect", alias, version)
    registry.set_alias("surface", "live", 2)
    assert roll_back(registry, "canary").version.version == 2
    assert roll_back(registry, "live").version.version == 1
    assert points(registry) == {("defect", "live"): 1, ("defect", "canary"): 2, ("surface", "live"): 2}


def test_a_long_history_is_found_at_once(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 3)
    registry.set_alias("defect", "live", 3)
    for step in range(120):
        registry.set_alias("defect", "live", 1 + step % 2)
    registry.delete("defect", 1)
    assert roll_back(registry).version.version == 3


def test_what_is_pointed_at_or_pinned_is_not_deleted(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 2)
    registry.set_alias("defect", "live", 1)
    registry.pin("defect", 2, "for the audit")
    for version, reason, fix in ((1, "live points at it", "promote another"), (2, "for the audit", "unpin defect:2")):
        with pytest.raises(IncompatibleError, match=reason) as caught:
            registry.delete("defect", version)
        assert (caught.value.field, caught.value.value) == ("version", f"defect:{version}")
        assert fix in caught.value.fix
    with pytest.raises(IncompatibleError, match="for the audit"):
        registry.delete_task("defect")
    assert points(registry) == {("defect", "live"): 1}
    registry.pin("defect", 2, None)
    assert registry.delete_task("defect") == 2
    assert (points(registry), numbers(registry)) == ({}, set())
    with pytest.raises(NotFoundError, match="no such task") as missing:
        registry.delete_task("defect")
    assert (missing.value.field, missing.value.value) == ("task", "defect")
    assert add(registry, shelf, "1")[0].id.version == 3
