"""The registration gate: what a package must pass before it may answer a single frame.

The checks run in this order, and the first that fails is the one error that is reported:
limits, schema, backbone, tensors, warm-up, golden. (The archive's own hash is checked before,
while it is received; the warm-up is the engine's, through `residency`.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lensmount_adapters.adapter import Adapter, check_backbone, fit
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.golden import Golden, compare_logits
from lensmount_adapters.manifest import read_manifest
from lensmount_adapters.package import Package, check_files, read_package
from lensmount_adapters.pictures import Pixels

Logits = Callable[[Pixels, Adapter], Awaitable[Tensor]]


@dataclass(frozen=True)
class Check:
    """One check that was passed; `detail` is for people."""

    name: str
    detail: str
    duration_ms: float


@dataclass(frozen=True, eq=False)
class Admitted:
    """A package that passed the whole gate, fitted to the backbone."""

    package: Package
    adapter: Adapter


def inspect(folder: Path, backbone: Backbone, checks: list[Check]) -> Admitted:
    """Run every check that needs no engine on an unpacked package; appends to `checks`. Blocks."""
    start = time.perf_counter()
    check_files(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    start = passed(checks, "limits", f"{size:,} bytes", start)
    manifest = read_manifest(folder)
    start = passed(checks, "schema", f"task {manifest.task}, {len(manifest.labels)} labels", start)
    check_backbone(manifest, backbone)
    start = passed(checks, "backbone", f"{backbone.name} {backbone.fingerprint[:12]}", start)
    package = read_package(folder)
    adapter = fit(package, backbone)
    passed(checks, "tensors", f"{len(package.tensors)} tensors, fork {adapter.fork}", start)
    return Admitted(package, adapter)


async def golden_check(admitted: Admitted, logits: Logits, precision: str, checks: list[Check]) -> None:
    """Compare what the serving path answers with what the trainer got; raises IncompatibleError."""
    start = time.perf_counter()
    golden: Golden = admitted.package.golden
    rows = await asyncio.gather(*(logits(pixels, admitted.adapter) for pixels in golden.pictures))
    served = torch.stack(rows)
    difference = compare_logits(golden, served, precision)
    detail = f"{len(golden.pictures)} pictures in {precision}, largest difference {difference:.1e} of the scale"
    passed(checks, "golden", detail, start)


def passed(checks: list[Check], name: str, detail: str, start: float) -> float:
    """Note a check that began at `start` (`time.perf_counter`); returns the time now."""
    now = time.perf_counter()
    checks.append(Check(name, detail, (now - start) * 1e3))
    return now
