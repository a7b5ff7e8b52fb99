"""What a registry's journal says, read back; what its database and blob folder hold; and whether all of it agrees."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import connect

from lensmount_adapters.package import content_hash
from lensmount_server.registry import Entry, Kind, Places, Registry
from lensmount_server.registry.journal import IDLE

POINTS = (Kind.ALIAS_SET, Kind.ROLLED_BACK)
GONE = (Kind.DELETED, Kind.COLLECTED)


@dataclass
class Told:
    """What the entries of a journal come to: content hashes by task and number, and what aliases point at."""

    versions: dict[tuple[str, int], str] = field(default_factory=dict)
    aliases: dict[tuple[str, str], int] = field(default_factory=dict)
    ever: set[tuple[str, int]] = field(default_factory=set)


def replayed(entries: Iterable[Entry]) -> Told:
    """Do again, in plain Python, what the entries say was done; fails where one does not follow from those before."""
    told = Told()
    for entry in entries:
        number, alias = (entry.version.task, entry.version.version), (entry.version.task, entry.alias)
        if entry.kind is Kind.REGISTERED:
            assert number not in told.ever, f"the number {number} was given twice"
            told.ever.add(number)
            told.versions[number] = entry.version.content_hash
        elif entry.kind in GONE:
            assert told.versions.pop(number) == entry.version.content_hash
        elif entry.kind in POINTS:
            assert entry.previous == told.aliases.get(alias, 0)
            assert told.versions[number] == entry.version.content_hash
            told.aliases[alias] = entry.version.version
        elif entry.kind is Kind.ALIAS_DELETED:
            assert entry.previous == told.aliases.pop(alias)
    return told


def check_whole(registry: Registry, places: Places) -> Told:
    """Fail unless journal, versions, aliases and packages tell one story, with nothing half there; what it is."""
    entries = registry.since(0, 1_000_000)
    told = replayed(entries)
    last = registry.pointed()[1]
    missing = set(range(1, last + 1)) - {entry.seq for entry in entries}
    assert not missing or any(entry.kind in IDLE for entry in entries), f"no entries {missing}"
    records = registry.page(1_000_000)
    assert {(each.id.task, each.id.version): each.id.content_hash for each in records} == told.versions
    assert {(each.task, alias): each.version for alias, each, _ in registry.pointed()[0]} == told.aliases
    for record in records:
        folder = Path(places.blobs) / record.blob
        assert folder.is_dir(), f"{record.id} has no package"
        assert content_hash(folder) == record.id.content_hash, f"{record.id} is damaged"
    here = {path.name for path in Path(places.blobs).iterdir()}
    assert here == {record.blob for record in records}, "packages without a version, or the other way about"
    return told


def check_directory(directory: Path, then: Callable[[Registry, Told], None] = lambda *_: None) -> Told:
    """The same for a registry in one data directory, which is opened again first; and SQLite finds no fault.

    `then` is what is done with the registry at the end.
    """
    registry = Registry(directory)
    try:
        assert not list((directory / "staging").iterdir())
        told = check_whole(registry, Places(blobs=str(directory / "blobs")))
        with closing(connect(directory / "registry.sqlite")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert database.execute("PRAGMA foreign_key_check").fetchall() == []
            assert database.execute("SELECT DISTINCT state FROM blobs").fetchall() in ([], [("kept",)])
        then(registry, told)
    finally:
        registry.close()
    return told
