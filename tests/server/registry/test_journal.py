from __future__ import annotations

import random
import time

import pytest

from ledger import replayed
from lensmount.errors import NotFoundError
from lensmount_server.registry import By, Kind, Registry, journal
from registries import ME, Shelf, add, add_all, points


def test_every_change_is_told_in_order_with_who_and_where(registry: Registry, shelf: Shelf) -> None:
    add(registry, shelf, "1", by=By("ann", "10.0.0.1"))
    add(registry, shelf, "2")
    add(registry, shelf, "2")
    registry.set_alias("defect", "live", 1, by=ME)
    registry.set_alias("defect", "live", 2, by=By("bob"))
    registry.set_alias("defect", "live", 2)
    target, expected = registry.rollback_target("defect", "live")
    registry.roll_back(target, "live", expected, ME)
    registry.pin("defect", 2, "why not")
    registry.pin("defect", 2, None)
    registry.tag("defect", 1, {"a": "b"}, ["c"])
    registry.delete("defect", 2)
    registry.refuse("", NotFoundError("nothing"))
    registry.delete_alias("defect", "live")
    registry.collect(0)
    told = [(entry.kind, entry.version.version, entry.alias, entry.previous) for entry in registry.since(0, 100)]
    assert told == [
        (Kind.REGISTERED, 1, "", 0),
        (Kind.REGISTERED, 2, "", 0),
        (Kind.REGISTERED_AGAIN, 2, "", 0),
        (Kind.ALIAS_SET, 1, "live", 0),
        (Kind.ALIAS_SET, 2, "live", 1),
        (Kind.ROLLED_BACK, 1, "live", 2),
        (Kind.PINNED, 2, "", 0),
        (Kind.UNPINNED, 2, "", 0),
        (Kind.TAGGED, 1, "", 0),
        (Kind.DELETED, 2, "", 0),
        (Kind.REFUSED, 0, "", 0),
        (Kind.ALIAS_DELETED, 0, "live", 1),
        (Kind.COLLECTED, 1, "", 0),
    ]
    first, *_, last = registry.since(0, 100)
    assert first.by == By("ann", "10.0.0.1")
    assert first.version.content_hash == shelf.package("1")[0].content_hash
    assert last.detail == "beyond the newest 0"


def test_pages_go_back_and_since_goes_on(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 3)
    add_all(registry, shelf, 2, "surface")
    for version in (1, 2, 3):
        registry.set_alias("defect", "live", version)
    registry.set_alias("surface", "canary", 1)
    assert [entry.seq for entry in registry.events(4)] == [9, 8, 7, 6]
    assert [entry.seq for entry in registry.events(4, 6)] == [5, 4, 3, 2]
    assert [entry.seq for entry in registry.events(9, task="surface")] == [9, 5, 4]
    assert [entry.seq for entry in registry.events(9, alias="live")] == [8, 7, 6]
    assert [entry.seq for entry in registry.events(9, 8, "defect", "live")] == [7, 6]
    assert [entry.seq for entry in registry.since(3, 2)] == [4, 5]
    assert [entry.seq for entry in registry.since(1, 9, ["surface"])] == [4, 5, 9]
    assert [entry.seq for entry in registry.since(1, 9, ["surface", "defect"])] == list(range(2, 10))
    assert registry.since(9, 9) == []


def test_the_order_does_not_hang_on_the_clock(
    registry: Registry, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr(time, "time_ns", lambda: next(now))
    add_all(registry, shelf, 3)
    draw = random.Random(1)
    for _ in range(30):
        registry.set_alias("defect", draw.choice(["live", "canary"]), draw.randint(1, 3))
    entries = registry.since(0, 1000)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.time_ns for entry in entries] == sorted((entry.time_ns for entry in entries), reverse=True)
    assert replayed(entries).aliases == points(registry)


def test_what_changes_nothing_does_not_fill_the_journal(
    registry: Registry, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MAX_IDLE", 5)
    add_all(registry, shelf, 2)
    registry.set_alias("defect", "live", 2)
    for number in range(8):
        registry.refuse("defect", NotFoundError(f"number {number}"))
        add(registry, shelf, "1")
    entries = registry.since(0, 100)
    idle = [entry.seq for entry in entries if entry.kind in journal.IDLE]
    assert idle == [15, 16, 17, 18, 19]
    assert [entry.seq for entry in entries if entry.kind not in journal.IDLE] == [1, 2, 3]


@pytest.mark.parametrize("quoted", ["a\0b", "a\ud800b"])
def test_a_reason_may_quote_anything(registry: Registry, quoted: str) -> None:
    registry.refuse("defect", NotFoundError("no such tensor", value=quoted))
    assert "no such tensor (got a?b)" in registry.events(1)[0].detail


def test_a_long_detail_is_cut(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 1)
    registry.tag("defect", 1, {f"key-{number}": "x" * 200 for number in range(20)}, ())
    assert len(registry.events(1)[0].detail) == journal.MAX_DETAIL
