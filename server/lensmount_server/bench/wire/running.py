"""All cases of a run, one after the other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensmount_server.bench.wire import front, real, tritonserver
from lensmount_server.bench.wire.case import Case
from lensmount_server.bench.wire.turns import Setting


@dataclass(frozen=True)
class Report:
    """What was measured: `threads` is the number of cores, `missing` why some cases are not there."""

    backbone: str
    threads: int
    rounds: int
    requests: int
    cases: tuple[Case, ...]
    missing: str = ""

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "cases": [case.as_object() for case in self.cases]}


def measure(setting: Setting, names: Collection[str], triton: tritonserver.Installed | None, missing: str) -> Report:
    """Run the cases that are in `names`, those of `case.CASES` in their order; without a Triton those without one."""
    with tempfile.TemporaryDirectory(prefix="lensmount-bench-") as folder:
        found = tuple(_cases(setting, names, triton, Path(folder)))
    cores = len(os.sched_getaffinity(0))
    return Report(setting.backbone, cores, setting.rounds, setting.requests, found, missing)


def _cases(
    setting: Setting, names: Collection[str], triton: tritonserver.Installed | None, scratch: Path
) -> Iterator[Case]:
    for part in ("front", "real"):
        (scratch / part).mkdir()
    if triton is not None:
        yield from front.cases(setting, names, triton, scratch / "front")
    yield from real.cases(setting, names, triton, scratch / "real")
