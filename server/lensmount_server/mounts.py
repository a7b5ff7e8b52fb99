"""The adapters that can answer now: what an alias points at, and versions that were pinned.

The table of aliases is replaced, never changed, and it is read once for every batch: a
promotion takes effect between two batches, and no batch sees half of one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from weakref import WeakValueDictionary

from lensmount.errors import NotFoundError
from lensmount_adapters.adapter import Adapter
from lensmount_server.frames import VersionId, Want

RECENT = 8


@dataclass(frozen=True, eq=False)
class Mounted:
    """An adapter in memory and the version that it is."""

    id: VersionId
    adapter: Adapter


class Mounts:
    """Which adapter answers a want."""

    def __init__(self) -> None:
        self._aliases: Mapping[tuple[str, str], Mounted] = MappingProxyType({})
        self._pinned: WeakValueDictionary[tuple[str, int], Mounted] = WeakValueDictionary()
        self._recent: deque[Mounted] = deque(maxlen=RECENT)

    def resolve(self, want: Want) -> Mounted:
        """The adapter for `want`; NotFoundError names the tasks there are."""
        found = self.find(want.task, want.version) if want.version else self._aliases.get((want.task, want.alias))
        if found is None:
            raise self._unknown(want)
        return found

    def point(self, alias: str, mounted: Mounted) -> None:
        """Let `alias` of the adapter's task answer with `mounted` from the next batch on."""
        self._aliases = MappingProxyType({**self._aliases, (mounted.id.task, alias): mounted})

    def pin(self, mounted: Mounted) -> None:
        """Let a version be asked for by number as long as somebody holds `mounted`, and a little longer."""
        self._pinned[mounted.id.task, mounted.id.version] = mounted
        self._recent.append(mounted)

    def find(self, task: str, version: int) -> Mounted | None:
        """A version that is in memory, by whatever way it came there."""
        pointed = (m for m in self._aliases.values() if (m.id.task, m.id.version) == (task, version))
        return next(pointed, self._pinned.get((task, version)))

    def _unknown(self, want: Want) -> NotFoundError:
        known = sorted({task for task, _ in self._aliases})
        if want.version:
            message, value = "no such version in memory", f"{want.task}:{want.version}"
            fix = "list the versions with `lensmount adapters list`"
        elif want.task in known:
            message, value = "this task has no such alias", f"{want.task}@{want.alias}"
            fix = f"lensmount promote {want.task} VERSION --alias {want.alias}"
        else:
            message, value = "no such task is live", want.task
            there = f"ask for one of: {', '.join(known)}; or " if known else ""
            fix = f"{there}register an adapter with `lensmount register FOLDER --alias live`"
        return NotFoundError(message, field="tasks", value=value, fix=fix)
