"""What must lie in a package's tensor file: every name, its shape and its type, held against what the file says.

Nothing of a tensor is needed but its entry in the header, so a tensor that does not fit is never read. Names are
claimed first, all of them, by whoever needs them (edits, head, replaced segments); then shapes are compared, then
types, and at last the ranks of LoRA's A and B with PEFT's settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.headers import FLOATS, WHOLE, Entry
from lensmount_adapters.package import CONFIG_FILE, TENSOR_FILE

FIX = "train the adapter again on this server's backbone"
FIX_TENSORS = "write the package with `lensmount train`; edits and tensors must belong together"
FIX_RANK = "train the adapter on this backbone, with the rank of adapter_config.json"

# Numbers in a tensor that is in the file and never runs: more classes than any classifier of timm's.
MAX_UNUSED = 1 << 16


@dataclass(frozen=True)
class Place:
    """What a tensor must be to lie here; floating point unless it `is_whole`."""

    shape: tuple[int, ...]
    fix: str
    is_whole: bool = False


@dataclass(frozen=True)
class Pair:
    """A and B of one module, as they must be for the rank of PEFT's settings: A (rank, …), B (out, rank, …)."""

    a: Place
    b: Place
    rank: int


class Layout:
    """The entries of a tensor file by their names in the model, and the places that were claimed for them."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries
        self._places: dict[str, Place] = {}
        self._pairs: dict[str, Pair] = {}
        self._unused: set[str] = set()
        self.unchanged: list[str] = []

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def claim(self, name: str, own: Tensor) -> None:
        """Take the name for a tensor to stand in the place of `own`; raises InvalidInputError if it is missing."""
        if name not in self._entries:
            raise InvalidInputError("missing", field=f"{TENSOR_FILE}: {name}", fix=FIX)
        self._places[name] = _place(own)

    def claim_if(self, name: str, shape: Sequence[int], setting: str, *, wanted: bool) -> bool:
        """Take the name where a setting of PEFT wants it; says whether.

        Raises InvalidInputError unless it is there exactly when it is wanted.
        """
        if wanted != (name in self._entries):
            message = f"{'missing' if wanted else 'given'}, and {CONFIG_FILE} says {setting}"
            raise InvalidInputError(message, field=f"{TENSOR_FILE}: {name}", fix=FIX_TENSORS)
        if wanted:
            self._places[name] = Place(tuple(shape), FIX_RANK)
        return wanted

    def claim_pair(self, module: str, a: Sequence[int], b: Sequence[int], rank: int) -> None:
        """Take the names of a module's A and B; A must be there. Raises InvalidInputError for an A without B."""
        if f"{module}.lora_B.weight" not in self._entries:
            raise InvalidInputError("A without B", field=f"{TENSOR_FILE}: {module}.lora_B.weight", fix=FIX_TENSORS)
        self._pairs[module] = Pair(Place(tuple(a), FIX_RANK), Place(tuple(b), FIX_RANK), rank)

    def claim_unchanged(self, name: str, own: Tensor) -> None:
        """Take the name, if it is there and nobody else took it, for a tensor whose values must be `own`'s."""
        if name in self._entries and name not in self._places:
            self._places[name] = _place(own)
            self.unchanged.append(name)

    def claim_unused(self, name: str) -> None:
        """Take the name of a tensor that never runs, if it is there."""
        if name in self._entries:
            self._unused.add(name)

    def check_names(self) -> None:
        """Raise InvalidInputError for a tensor that nobody claimed."""
        pairs = {f"{module}.lora_{side}.weight" for module in self._pairs for side in "AB"}
        remaining = self._entries.keys() - self._places.keys() - pairs - self._unused
        if remaining:
            message = "belongs to no edit of task.json and not to the head"
            raise InvalidInputError(message, field=f"{TENSOR_FILE}: {min(remaining)}", fix=FIX_TENSORS)

    def check_shapes(self) -> None:
        """Raise InvalidInputError for the first tensor of another shape; A and B may agree on any rank here."""
        for module, pair in self._pairs.items():
            self._check_pair(module, pair)
        for name, place in self._places.items():
            self._check_shape(name, place)
        for name in sorted(self._unused):
            shape = self._entries[name].shape
            if len(shape) != 1 or shape[0] > MAX_UNUSED:
                message = f"one row of at most {MAX_UNUSED:,} numbers expected"
                raise InvalidInputError(message, field=f"{TENSOR_FILE}: {name}", value=shape, fix=f"leave {name} away")

    def check_dtypes(self) -> None:
        """Raise InvalidInputError for the first tensor of another type."""
        whole = {name for name, place in self._places.items() if place.is_whole}
        for name, entry in self._entries.items():
            allowed = WHOLE if name in whole else FLOATS
            if entry.dtype not in allowed:
                message, fix = f"{' or '.join(allowed)} expected", f"save the tensor as {allowed[0]}"
                raise InvalidInputError(message, field=f"{TENSOR_FILE}: {name}", value=entry.dtype, fix=fix)

    def check_ranks(self) -> None:
        """Raise InvalidInputError for the first A and B of another rank than PEFT's settings say."""
        for module, pair in self._pairs.items():
            rank = self._entries[f"{module}.lora_A.weight"].shape[0]
            if rank != pair.rank:
                message, field = f"{CONFIG_FILE} says rank {pair.rank}", f"{TENSOR_FILE}: {module}.lora_A.weight"
                raise InvalidInputError(message, field=field, value=f"rank {rank}", fix=FIX_RANK)

    def _check_pair(self, module: str, pair: Pair) -> None:
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        rank, columns = self._entries[a].shape[:1], self._entries[b].shape[1:2]
        if rank == columns and rank:
            pair = Pair(_at_rank(pair.a, 0, rank[0]), _at_rank(pair.b, 1, rank[0]), pair.rank)
        self._check_shape(a, pair.a)
        self._check_shape(b, pair.b)

    def _check_shape(self, name: str, place: Place) -> None:
        shape = self._entries[name].shape
        if shape != place.shape:
            message = f"shape {place.shape} expected"
            raise InvalidInputError(message, field=f"{TENSOR_FILE}: {name}", value=shape, fix=place.fix)


def _place(own: Tensor) -> Place:
    return Place(tuple(own.shape), FIX, is_whole=not own.is_floating_point())


def _at_rank(place: Place, side: int, rank: int) -> Place:
    return Place((*place.shape[:side], rank, *place.shape[side + 1 :]), place.fix)
