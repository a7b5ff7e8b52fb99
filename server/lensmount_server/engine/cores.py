"""How many cores this process may use: those that it may run on, within the quota of its container (cgroups(7))."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

Reader = Callable[[Path], float]

_ROOT = Path("/")


def cores(root: Path = _ROOT) -> int:
    """At least one. A quota of 2.5 cores is three: two would never use it up."""
    quotas = [quota for quota in _quotas(root) if quota > 0]
    return max(1, min([len(os.sched_getaffinity(0)), *(math.ceil(quota) for quota in quotas)]))


def _quotas(root: Path) -> Iterator[float]:
    """Cores that the own cgroup and those above it allow, in both versions of cgroups."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield from _upwards(root / "sys/fs/cgroup", path, _quota_v2)
            elif "cpu" in controllers.split(","):
                yield from _upwards(root / "sys/fs/cgroup" / controllers, path, _quota_v1)


def _upwards(mount: Path, path: str, read: Reader) -> Iterator[float]:
    """From the own group to the root of what is mounted here; a container often sees its own group as the root."""
    parts = [part for part in path.split("/") if part not in {"", ".."}]
    for depth in range(len(parts), -1, -1):
        with suppress(OSError, ValueError):
            yield read(mount.joinpath(*parts[:depth]))


def _quota_v2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)


def _quota_v1(folder: Path) -> float:
    return int((folder / "cpu.cfs_quota_us").read_text()) / int((folder / "cpu.cfs_period_us").read_text())
