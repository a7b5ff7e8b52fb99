"""Which version answers a want: what an alias points at, and versions asked for by number.

The table of aliases knows every live task and holds no adapter; adapters are in the hot set.
The table is replaced, never changed, and it is read once for every batch: a promotion takes
effect between two batches, and no batch sees half of one. What is not hot is refused here,
whatever the reason: no row ever runs on the base or on another version instead.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

from lensmount.errors import NotFoundError, TooLargeError, UnavailableError
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import VersionId, Want
from lensmount_server.hotset import HotSet, Mounted, Number

__all__ = ["ColdError", "Leases", "Mounted", "Mounts"]

# How many tasks an error names; there may be thousands.
NAMED = 8

Alias = tuple[str, str]


class ColdError(UnavailableError):
    """The version is registered and not in memory at this moment; whoever can load it does, and asks again."""


class Mounts:
    """The table of aliases over the hot set; lives on the event loop."""

    def __init__(self, hot: HotSet | None = None) -> None:
        self.hot = HotSet() if hot is None else hot
        self._aliases: Mapping[Alias, VersionId] = {}
        self._set_by: dict[Alias, int] = {}
        self._deleted: set[Number] = set()
        self._open: Counter[Alias] = Counter()

    def replace(self, pointed: Iterable[tuple[str, VersionId, int]]) -> None:
        """Take over a whole table of aliases: each with its version and the change that set it. Nothing is loaded."""
        table = {(version.task, alias): (version, seq) for alias, version, seq in pointed}
        self._aliases = {key: version for key, (version, _) in table.items()}
        self._set_by = {key: seq for key, (_, seq) in table.items()}

    def version(self, want: Want) -> VersionId | None:
        """The version that answers `want`, hot or not; None for a number that is not hot.

        Raises NotFoundError, which names the tasks there are, for an unknown task or alias and for a number that was
        deleted.
        """
        if want.version:
            if (want.task, want.version) in self._deleted:
                raise _deleted(want)
            hot = self.hot.numbered((want.task, want.version))
            return hot.id if hot else None
        version = self._aliases.get((want.task, want.alias))
        if version is None:
            raise self._unknown(want)
        return version

    def resolve(self, want: Want) -> Mounted:
        """The adapter for `want`. Raises NotFoundError, or ColdError for one that is not in memory."""
        version = self.version(want)
        if version is None:
            raise self._unknown(want)
        found = self.hot.find(version.content_hash)
        if found is None or found.id != version:
            value = f"{want.task}@{want.alias}"
            raise ColdError("its adapter is not in memory now", field="tasks", value=value, fix="ask again")
        return found

    def preprocessings(self, wants: Sequence[Want]) -> tuple[Preprocessing, ...]:
        """How frames are prepared for the adapters of `wants` that are hot, each way once."""
        keys = ((want.task, want.alias) for want in wants if not want.version)
        versions = [version for key in keys if (version := self._aliases.get(key)) is not None]
        hot = [self.hot.find(version.content_hash) for version in versions]
        hot += [self.hot.numbered((want.task, want.version)) for want in wants if want.version]
        return tuple(dict.fromkeys(each.adapter.manifest.preprocessing for each in hot if each is not None))

    def leases(self) -> Leases:
        """Leases that end together: those of a batch, or of a frame."""
        return Leases(self)

    def point(self, alias: str, mounted: Mounted, seq: int | None = None) -> bool:
        """Let `alias` of the adapter's task answer with `mounted` from the next batch on.

        The streams that follow the alias keep the new version hot from now on, and no longer the old one. `seq` is
        the number of this change; one that is older than what is known here changes nothing, and is False.
        """
        if not self.turn(alias, mounted.id, seq):
            return False
        self.hot.put(mounted)
        return True

    def turn(self, alias: str, version: VersionId, seq: int | None = None) -> bool:
        """The same for a version that is not in memory, or not yet: whoever asks for it has it loaded."""
        key = (version.task, alias)
        if not self._is_news(key, seq):
            return False
        self._repin(key, version)
        self._aliases = {**self._aliases, key: version}
        return True

    def take_down(self, task: str, alias: str, seq: int) -> bool:
        """There is no such alias from the next batch on; False where something newer is known."""
        key = (task, alias)
        if not self._is_news(key, seq):
            return False
        self._repin(key, None)
        self._aliases = {each: version for each, version in self._aliases.items() if each != key}
        return True

    def delete(self, version: VersionId) -> None:
        """Have a number never answer again, hot or not."""
        number = (version.task, version.version)
        self._deleted.add(number)
        self.hot.doom(number)

    def known(self, task: str) -> bool:
        """Whether a task has an alias."""
        return any(name == task for name, _ in self._aliases)

    def followed(self, task: str, alias: str) -> bool:
        """Whether open streams follow an alias."""
        return self._open[task, alias] > 0

    def set_by(self, task: str, alias: str) -> int:
        """The number of the change that set an alias, or took it away; 0 when none is known."""
        return self._set_by.get((task, alias), 0)

    def pin(self, mounted: Mounted) -> None:
        """Make a version hot and keep it so."""
        self.hot.pin(mounted.number)
        self.hot.put(mounted)

    @contextmanager
    def pinned(self, wants: Sequence[Want]) -> Iterator[None]:
        """While open, whatever answers `wants` is not dropped from memory, through all promotions.

        Raises TooLargeError where more would be pinned than may be hot.
        """
        self._check_room(wants)
        for want in wants:
            self._follow(want, 1)
        try:
            yield
        finally:
            for want in wants:
                self._follow(want, -1)

    def _is_news(self, key: Alias, seq: int | None) -> bool:
        before = self._set_by.get(key, 0)
        if seq is not None and seq <= before:
            return False
        self._set_by[key] = before if seq is None else seq
        return True

    def _repin(self, key: Alias, version: VersionId | None) -> None:
        before, followers = self._aliases.get(key), self._open.get(key, 0)
        if followers and version is not None:
            self.hot.pin((version.task, version.version), followers)
        if followers and before is not None:
            self.hot.unpin((before.task, before.version), followers)

    def _follow(self, want: Want, change: int) -> None:
        number = self._number(want)
        if not want.version:
            self._open[want.task, want.alias] += change
            if not self._open[want.task, want.alias]:
                del self._open[want.task, want.alias]
        if number is not None:
            (self.hot.pin if change > 0 else self.hot.unpin)(number)

    def _number(self, want: Want) -> Number | None:
        if want.version:
            return want.task, want.version
        version = self._aliases.get((want.task, want.alias))
        return (version.task, version.version) if version else None

    def _check_room(self, wants: Sequence[Want]) -> None:
        wanted = len(self.hot.pinned | {number for want in wants if (number := self._number(want)) is not None})
        if wanted > self.hot.limits.count:
            message = f"open streams already use the {self.hot.limits.count} adapters that may be hot"
            fix = "end a stream first, or serve with a larger --hot-adapters"
            raise TooLargeError(message, field="tasks", value=wanted, fix=fix)

    def _unknown(self, want: Want) -> NotFoundError:
        known = {task for task, _ in self._aliases}
        if want.version:
            message, value = "no such version in memory", f"{want.task}:{want.version}"
            fix = "list the versions with `lensmount adapters list`"
        elif want.task in known:
            message, value = "this task has no such alias", f"{want.task}@{want.alias}"
            fix = f"lensmount promote {want.task} VERSION --alias {want.alias}"
        else:
            message, value = "no such task is live", want.task
            fix = f"{_one_of(known)}register an adapter with `lensmount register FOLDER --alias live`"
        return NotFoundError(message, field="tasks", value=value, fix=fix)


class Leases:
    """What one batch resolved: none of it leaves the memory until the `with` block ends."""

    def __init__(self, mounts: Mounts) -> None:
        self._mounts = mounts
        self._held: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for content_hash in self._held:
            self._mounts.hot.release(content_hash)
        self._held.clear()

    def resolve(self, want: Want) -> Mounted:
        """The adapter for `want`, held. Raises NotFoundError or ColdError."""
        mounted = self._mounts.resolve(want)
        self.hold(mounted.id)
        return mounted

    def hold(self, version: VersionId) -> None:
        """Hold a version that may still be on its way into memory."""
        self._mounts.hot.lease(version.content_hash)
        self._held.append(version.content_hash)


def _one_of(known: set[str]) -> str:
    if not known:
        return ""
    more = f" and {len(known) - NAMED:,} more" if len(known) > NAMED else ""
    return f"ask for one of: {', '.join(heapq.nsmallest(NAMED, known))}{more}; or "


def _deleted(want: Want) -> NotFoundError:
    fix = "list the versions with `lensmount adapters list`, and ask for another one"
    return NotFoundError("this version was deleted", field="tasks", value=f"{want.task}:{want.version}", fix=fix)
