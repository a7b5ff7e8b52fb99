"""Which adapter is in which slot: bookkeeping alone, no tensor.

What holds at any moment, and `tests/server/engine/cuda/test_slot_table.py` tries to break:

- a slot holds one content hash and a content hash is in one slot;
- a slot that rows in flight use, or that is pinned, is not given to another adapter;
- among the others the one that was used longest ago goes first.

S-LoRA (arXiv 2311.03285) pages adapters of many ranks through one memory pool; here ranks are
padded and slots fixed, so that a kernel finds A and B by the slot's number.
"""

from __future__ import annotations

from dataclasses import dataclass

from lensmount.errors import ConflictError, NotFoundError, UnavailableError


@dataclass(frozen=True)
class Placement:
    """Where an adapter is; when it is `fresh`, its tensors are still to be written there."""

    slot: int
    fresh: bool


@dataclass
class _Resident:
    slot: int
    users: int = 0
    pinned: bool = False


class SlotTable:
    """`count` slots; not for use by two threads at once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(reversed(range(count)))
        # By content hash, the one that was used longest ago first.
        self._residents: dict[str, _Resident] = {}

    @property
    def residents(self) -> dict[str, int]:
        """Content hash to slot, the one that was used longest ago first."""
        return {content_hash: resident.slot for content_hash, resident in self._residents.items()}

    @property
    def pinned(self) -> frozenset[str]:
        """The content hashes that stay."""
        return frozenset(content_hash for content_hash, resident in self._residents.items() if resident.pinned)

    def users(self, content_hash: str) -> int:
        """How many hold it now; 0 for one that is not here."""
        resident = self._residents.get(content_hash)
        return resident.users if resident else 0

    def acquire(self, content_hash: str) -> Placement:
        """Hold an adapter's slot until `release`, giving it one first if need be.

        Raises UnavailableError when every slot is pinned or in use.
        """
        resident = self._residents.pop(content_hash, None)
        fresh = resident is None
        if resident is None:
            resident = _Resident(self._take(content_hash))
        resident.users += 1
        self._residents[content_hash] = resident
        return Placement(resident.slot, fresh)

    def release(self, content_hash: str) -> None:
        """Hold it no longer; it stays where it is until its slot is needed."""
        resident = self._resident(content_hash)
        if not resident.users:
            raise ConflictError("released more often than acquired", field="content_hash", value=content_hash)
        resident.users -= 1

    def pin(self, content_hash: str, *, keep: bool = True) -> None:
        """Keep an adapter that is here, whatever is asked for; or, with `keep` false, no longer."""
        self._resident(content_hash).pinned = keep

    def drop(self, content_hash: str) -> int:
        """Free the slot at once, pinned or not; returns it. Raises ConflictError while it is in use."""
        resident = self._resident(content_hash)
        if resident.users:
            message, fix = "rows in flight use it", "drop it after the batch"
            raise ConflictError(message, field="content_hash", value=content_hash, fix=fix)
        del self._residents[content_hash]
        self._free.append(resident.slot)
        return resident.slot

    def _resident(self, content_hash: str) -> _Resident:
        if content_hash not in self._residents:
            raise NotFoundError("not in a slot", field="content_hash", value=content_hash)
        return self._residents[content_hash]

    def _take(self, content_hash: str) -> int:
        """A free slot, else that of the adapter that was used longest ago and that nothing holds."""
        if self._free:
            return self._free.pop()
        idle = (name for name, resident in self._residents.items() if not resident.users and not resident.pinned)
        oldest = next(idle, None)
        if oldest is None:
            message, fix = (
                f"all {self.count} slots are pinned or in use",
                "unpin an adapter, or give the engine more slots",
            )
            raise UnavailableError(message, field="content_hash", value=content_hash, fix=fix)
        return self._residents.pop(oldest).slot
