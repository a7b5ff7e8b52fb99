"""The registration gate: what a package must pass before it may answer a single frame.

The checks run in this order, and the first that fails is the one error that is reported: limits, schema, hash,
backbone, preprocessing, names, shapes, dtypes, finite, rank (`lensmount_adapters.admission`), warm-up, golden, policy.
(The archive is held against its own hash before, while it is received; the warm-up is the engine's, through
`residency`.)
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.admission import Admitted, Passed, admit
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.golden import Golden, compare_logits
from lensmount_adapters.pictures import Pixels

__all__ = ["Admitted", "Check", "golden_check", "inspect", "noted", "passed"]

Logits = Callable[[Pixels, Adapter], Awaitable[Tensor]]


@dataclass(frozen=True)
class Check:
    """One check that was passed; `detail` is for people."""

    name: str
    detail: str
    duration_ms: float


def inspect(folder: Path, backbone: Backbone, checks: list[Check]) -> Admitted:
    """Run every check that needs no engine on an unpacked package; appends to `checks`. Blocks."""
    return admit(folder, backbone, noted(checks))


def noted(checks: list[Check]) -> Passed:
    """Appends to `checks` whatever is told to have passed, with the time since the one before."""
    start = time.perf_counter()

    def note(name: str, detail: str) -> None:
        nonlocal start
        start = passed(checks, name, detail, start)

    return note


async def golden_check(admitted: Admitted, logits: Logits, precision: str, checks: list[Check]) -> None:
    """Compare what the serving path answers with what the trainer got; raises IncompatibleError.

    One picture after the other, as the trainer took them: the last bits of a logit depend on the size of its batch.
    """
    start = time.perf_counter()
    golden: Golden = admitted.package.golden
    rows = [await logits(pixels, admitted.adapter) for pixels in golden.pictures]
    served = torch.stack(rows)
    difference = compare_logits(golden, served, precision)
    detail = f"{len(golden.pictures)} pictures in {precision}, largest difference {difference:.1e} of the scale"
    passed(checks, "golden", detail, start)


def passed(checks: list[Check], name: str, detail: str, start: float) -> float:
    """Note a check that began at `start` (`time.perf_counter`); returns the time now."""
    now = time.perf_counter()
    checks.append(Check(name, detail, (now - start) * 1e3))
    return now
