from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensmount_server.registry import Filter, Places, Registry
from registries import Shelf, add, add_all, opened, write_small

# What LIKE, its escapes, letters in two cases and letters of several code points could make of a query.
PIECES = [
    "%",
    "_",
    "\\",
    "/",
    "a",
    "B",
    "ä",
    "ẞ",
    "İ",
    "ς",
    "Σ",
    "é",
    "e\u0301",
    "日本",
    "🜚",
    "'",
    '"',
    ";",
    " ",
    "=",
    "10%",
]
words = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)


def pages(registry: Registry, size: int, wanted: Filter) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    before = None
    while page := registry.page(size, before, wanted):
        assert len(page) <= size
        found += [(record.id.task, record.id.version) for record in page]
        before = page[-1].seq
    return found


def found(registry: Registry, **wanted: object) -> list[int]:
    return sorted(record.id.version for record in registry.page(100, None, Filter(**wanted)))  # type: ignore[arg-type]


@pytest.mark.parametrize("clock", ["stands", "goes backwards", "goes"])
def test_pages_hold_every_version_once_newest_first(
    registry: Registry, shelf: Shelf, clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(2_000_000_000, 0, -1))
    if clock != "goes":
        monkeypatch.setattr(time, "time_ns", lambda: 7 if clock == "stands" else next(now))
    add_all(registry, shelf, 4)
    add_all(registry, shelf, 2, "surface")
    add(registry, shelf, "5")
    expected = [
        ("defect", 5),
        ("surface", 2),
        ("surface", 1),
        ("defect", 4),
        ("defect", 3),
        ("defect", 2),
        ("defect", 1),
    ]
    for size in (1, 2, 3, 7, 100):
        assert pages(registry, size, Filter()) == expected
        assert pages(registry, size, Filter(task="defect")) == [each for each in expected if each[0] == "defect"]
    assert pages(registry, 2, Filter(task="weather")) == []


def test_a_page_goes_on_where_it_stopped_whatever_happens_meanwhile(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 5)
    first = registry.page(2)
    registry.delete("defect", 3)
    add(registry, shelf, "6")
    assert [record.id.version for record in registry.page(9, first[-1].seq)] == [2, 1]


def test_versions_are_found_by_what_is_noted_of_them(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 4)
    add(registry, shelf, "1", "surface")
    registry.set_alias("defect", "live", 2)
    registry.set_alias("surface", "live", 1)
    registry.pin("defect", 4, "")
    registry.tag("defect", 1, {"line": "7", "shift": "night"}, ())
    registry.tag("defect", 2, {"line": "8"}, ())
    assert found(registry, task="defect") == [1, 2, 3, 4]
    assert found(registry, task="defect", alias="live") == [2]
    assert len(registry.page(9, None, Filter(alias="live"))) == 2
    assert found(registry, pinned_only=True) == [4]
    assert found(registry, tags={"line": ""}) == [1, 2]
    assert found(registry, tags={"line": "7"}) == [1]
    assert found(registry, tags={"line": "7", "shift": "night"}) == [1]
    assert found(registry, tags={"line": "8", "shift": "night"}) == []
    assert found(registry, query="NIGHT") == found(registry, query="hif") == [1]
    assert found(registry, query="SCRATCH", task="defect") == [1, 2, 3, 4]
    assert found(registry, query="surf") == [1]
    assert found(registry, query="scr%tch") == found(registry, query="n_ght") == []
    assert found(registry, task="defect", alias="live", tags={"line": ""}, query="8") == [2]


def test_tags_are_put_and_dropped(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 1)
    registry.tag("defect", 1, {"a": "1", "b": "2"}, ())
    registry.tag("defect", 1, {"b": "3", "c": ""}, ["a", "not there"])
    assert registry.get("defect", 1).tags == {"b": "3", "c": ""}
    assert registry.events(1)[0].detail == "b=3 c= -a -not there"
    assert found(registry, query="1") == []


@given(data=st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_part_of_a_tag_finds_it_in_any_case(registry: Registry, shelf: Shelf, data: st.DataObject) -> None:
    add_all(registry, shelf, 2)
    value, other = data.draw(words), data.draw(words)
    registry.tag("defect", 1, {"note": value}, ())
    registry.tag("defect", 2, {"note": other}, ())
    start = data.draw(st.integers(0, len(value) - 1))
    part = value[start : data.draw(st.integers(start + 1, len(value)))]
    for query in (part, part.upper(), part.lower()):
        told = [n for n, text in ((1, value), (2, other)) if query.casefold() in f"note\n{text}".casefold()]
        # A label or the task's own name may hold a single letter too.
        assert set(found(registry, query=query)) - set(told) <= (
            {1, 2} if query.casefold() in "defect\ntest\nok\nscratch" else set()
        )
        assert set(told) <= set(found(registry, query=query))
    assert found(registry, tags={"note": value}) == ([1, 2] if value == other else [1])


@pytest.mark.parametrize("label", ["100%", "a_b", "back\\slash", "Größe", "日本", "ΟΔΟΣ"])
def test_a_label_is_found_as_it_is_written(new_places: Callable[[], Places], tmp_path: Path, label: str) -> None:
    with opened(tmp_path / "data", new_places()) as registry:
        for number, labels in enumerate([(label, "other"), ("100 of", "aXb", "backslash", "Grosse")]):
            package = write_small(tmp_path / str(number), "defect", "", labels)
            registry.add(package, tmp_path / str(number))
        assert found(registry, query=label) == found(registry, query=label.upper()) == [1]
