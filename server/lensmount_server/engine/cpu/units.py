"""The seam between the engine and what compiles for it: a range of segments with fixed weights, ready to run.

A unit is compiled for a few batch sizes (its *buckets*), because a compiler does better when
it knows the shape; any number of rows is run as chunks of those sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

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
