"""Engines that real Tritons host: their model repositories, and this server's side of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from torch import Tensor

from factories import pictures
from lensmount_adapters.adapter import Adapter
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.runtime import Engine
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.export.triton import export_triton
from lensmount_server.frames import Still
from lensmount_server.triton.executor import TritonExecutor
from lensmount_server.triton.fleet import Fleet
from lensmount_server.triton.opening import open_triton
from serving import Kit
from triton_server import TritonServer

SETTINGS = EngineSettings(engine="torch", precision="fp32", threads=1)
SHOTS = pictures(8, seed=3)
# The same arithmetic in another process; another adapter's logits are off by far more.
SAME = 1e-5
PATIENCE_S = 60.0
MORE: Mapping[str, Path] = MappingProxyType({})


def model_of(kit: Kit, folder: Path, model_file: str = "") -> Path:
    """A model repository with the kit's backbone; `model_file` replaces the model.py that was exported."""
    written = export_triton(folder, kit.backbone, SETTINGS)
    if model_file:
        (written / "1" / "model.py").write_text(model_file)
    return folder


def packages(kit: Kit, more: Mapping[str, Path] = MORE) -> Callable[[str], Path]:
    """Where the packages of the kit are, and more of them, by content hash."""
    known = {version.adapter.content_hash: version.folder for version in kit.versions} | dict(more)
    return known.__getitem__


@contextmanager
def asking(kit: Kit, *servers: TritonServer, mount: bool = True, more: Mapping[str, Path] = MORE) -> Iterator[Engine]:
    """An engine on these Tritons, all adapters of the kit mounted."""
    engine = open_triton(kit.backbone, [server.url for server in servers], packages(kit, more))
    try:
        until_ready(engine, len(servers))
        for version in kit.versions if mount else ():
            engine.mount(version.adapter)
        yield engine
    finally:
        engine.close()


def executor_of(engine: Engine) -> TritonExecutor:
    assert isinstance(engine.executor, TritonExecutor)
    return engine.executor


def fleet_of(engine: Engine) -> Fleet:
    assert isinstance(engine.choice, Fleet)
    return engine.choice


def until_ready(engine: Engine, count: int) -> None:
    """Wait until so many Tritons may be asked."""
    fleet = fleet_of(engine)
    for _ in range(round(PATIENCE_S / 0.02)):
        if sum(member.ready for member in fleet.members) == count:
            return
        time.sleep(0.02)
    pytest.fail(f"not {count} ready: {fleet.reason}")


def jobs_of(wanted: Sequence[Sequence[Adapter]], until_s: float = inf) -> list[Job]:
    """A job for each picture, with the adapters that shall look at it."""
    jobs = [Job(Still(SHOTS[place % len(SHOTS)]), tuple(adapters)) for place, adapters in enumerate(wanted)]
    return [replace(job, until_s=until_s) for job in jobs]


def everything(kit: Kit, frames: int = 8) -> list[Job]:
    """Every task of every version for each of so many pictures."""
    return jobs_of([[version.adapter for version in kit.versions]] * frames)


def right(kit: Kit, jobs: Sequence[Job], logits: Sequence[Sequence[Tensor]]) -> bool:
    """Whether all rows are what their adapters' own models answer."""
    own = {version.adapter.content_hash: version for version in kit.versions}
    for place, (job, rows) in enumerate(zip(jobs, logits, strict=True)):
        for adapter, row in zip(job.adapters, rows, strict=True):
            wanted = own[adapter.content_hash].logits(SHOTS[place % len(SHOTS)])
            if row.shape != wanted.shape or not torch.allclose(row, wanted, atol=1e-4, rtol=1e-4):
                return False
    return True
