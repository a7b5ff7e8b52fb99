"""An executor is told until when somebody waits for a pass."""

from __future__ import annotations

import time
from math import inf
from pathlib import Path

import pytest
from torch import Tensor

from houses import LIVE, SHOTS, opened, stock
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.plan import Pass
from lensmount_server.engine.reference import ReferenceExecutor
from lensmount_server.engine.runtime import Engine
from lensmount_server.frames import Frame, Still
from lensmount_server.mounts import Mounts
from lensmount_server.scheduling import Terms
from serving import Kit


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    run = ReferenceExecutor.run

    def noted(executor: ReferenceExecutor, work: Pass, pictures: Tensor) -> list[Tensor]:
        found.append(work.until_s)
        return run(executor, work, pictures)

    monkeypatch.setattr(ReferenceExecutor, "run", noted)
    return found


@pytest.mark.parametrize(("jobs", "latest"), [((5.0, 7.0), 7.0), ((5.0, inf), inf), ((5.0,), 5.0)])
def test_the_latest_of_a_batch_counts(kit: Kit, told: list[float], jobs: tuple[float, ...], latest: float) -> None:
    adapters = (kit.surface.adapter,)
    Engine(kit.backbone).run([Job(Still(SHOTS[0]), adapters, until_s=until_s) for until_s in jobs])
    assert told == [latest]


async def test_a_deadline_arrives_on_the_engine_s_clock(kit: Kit, tmp_path: Path, told: list[float]) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", Mounts()) as house:
        told.clear()
        before = time.perf_counter()
        await house.catalog.answer(Frame(Still(SHOTS[0])), [LIVE], Terms(deadline_s=60.0))
        after = time.perf_counter()
        await house.catalog.answer(Frame(Still(SHOTS[0])), [LIVE])
    first, second = told
    assert before + 60 <= first <= after + 60
    assert second == inf
