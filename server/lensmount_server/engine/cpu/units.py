"""The seam between the engine and what compiles for it: a range of segments with fixed weights, ready to run.

A unit is compiled for a few batch sizes (its *buckets*), because a compiler does better when
it knows the shape; any number of rows is run as chunks of those sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from lensmount_adapters.lora import LoraDelta
from lensmount_server.engine.probes import Probes
from lensmount_server.engine.ranges import SegmentRange

NO_TENSORS: Mapping[str, Tensor] = {}


class Unit(Protocol):
    """A range that runs. May be called by several threads at once."""

    @property
    def buckets(self) -> tuple[int, ...]:
        """The batch sizes that it takes."""
        ...

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row of its output."""
        ...

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        ...

    def run(self, x: Tensor, out: Tensor) -> None:
        """Run `x`, as many rows as a bucket, into `out` (float32, the same rows, each of `row_shape`)."""
        ...

    def run_wide(self, x: Tensor, out: Tensor) -> bool:
        """Run a single row on all cores; False, and nothing done, where the unit has no form for that."""
        ...


class LoraUnit(Protocol):
    """A compiled range that takes the low-rank tensors of its edits as inputs. May be used by several threads."""

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, without the adapters that are bound to it."""
        ...

    def bind(self, deltas: Mapping[str, LoraDelta]) -> Unit:
        """A unit that runs the range with these edits, of exactly the modules that it was compiled for."""
        ...


@dataclass(frozen=True)
class Work:
    """Rows for one unit; `weight` is what a row costs, in any measure that all works share."""

    unit: Unit
    x: Tensor
    weight: float = 1.0


class Compiler(Protocol):
    """Makes units."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        ...

    @property
    def precision(self) -> str:
        """What its units compute in: "fp32" or "bf16"."""
        ...

    @property
    def probes(self) -> Probes:
        """What its units are checked against."""
        ...

    @property
    def lanes(self) -> int:
        """How many works gain from running side by side."""
        ...

    def compile(self, range_: SegmentRange, options: Options, tensors: Mapping[str, Tensor] = ...) -> Unit:
        """The range with `tensors` (by their names in the model) in place of the backbone's. Blocks.

        Raises ServerError when the compiled range does not give what the backbone gives.
        """
        ...

    def compile_lora(self, range_: SegmentRange, options: Options, ranks: Mapping[str, int]) -> LoraUnit | None:
        """The range with a LoRA edit of at most this rank on each of these modules, whatever its values. Blocks.

        None where that can not be compiled, or would not be faster than torch's own operators. Raises as `compile`.
        """
        ...


@dataclass(frozen=True)
class Options:
    """Batch sizes to compile for, in ascending order from 1; `wide`: also a single row on all cores."""

    buckets: tuple[int, ...] = (1, 2, 4)
    wide: bool = field(default=False)


def chunks(rows: int, buckets: Sequence[int], limit: int) -> list[int]:
    """Sizes, each a bucket of at most `limit` rows (or the smallest one), that add up to `rows`; largest first."""
    sizes = []
    for bucket in sorted(buckets, reverse=True):
        if bucket <= limit or bucket == min(buckets):
            count, rows = divmod(rows, bucket)
            sizes += [bucket] * count
    return sizes
