"""What the engine in a real Triton answers is what the engine in this process answers."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from factories import fitted
from lensmount_server.engine.opening import open_engine
from lensmount_server.engine.runtime import Engine
from serving import Kit
from triton_server import TritonServer
from tritons import SAME, SETTINGS, asking, everything, executor_of, fleet_of, jobs_of, right

pytestmark = pytest.mark.triton


def far(one: list[list[torch.Tensor]], other: list[list[torch.Tensor]]) -> float:
    pairs = [(a, b) for rows, own in zip(one, other, strict=True) for a, b in zip(rows, own, strict=True)]
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.fixture(scope="module")
def here(kit: Kit) -> Engine:
    engine = open_engine(kit.backbone, SETTINGS)
    for version in kit.versions:
        engine.mount(version.adapter)
    return engine


@pytest.mark.parametrize("shared", [True, False])
def test_every_task_of_every_frame(kit: Kit, triton: TritonServer, here: Engine, shared: bool) -> None:
    with asking(kit, triton) as engine:
        (member,) = fleet_of(engine).members
        assert member.instance.shares_memory  # it runs on this host
        member.instance.shares_memory = shared
        jobs = everything(kit)
        answers = engine.run(jobs)
        assert right(kit, jobs, answers)
        assert far(answers, here.run(jobs)) < SAME
        assert engine.counters().segment_rows == (8, 8, 8, 8, 8, 32, 40, 40)
        assert engine.precision == "fp32"


def test_random_batches_on_two_tritons(kit: Kit, both: list[TritonServer], here: Engine) -> None:
    draw = random.Random(1)
    with asking(kit, *both) as engine:
        for _ in range(30):
            tasks = [version.adapter for version in kit.versions]
            jobs = jobs_of([draw.sample(tasks, draw.randint(1, 5)) for _ in range(draw.randint(1, 9))])
            answers = engine.run(jobs)
            assert right(kit, jobs, answers)
            assert far(answers, here.run(jobs)) < SAME
        assert all(member.frame_s > 0 for member in fleet_of(engine).members)


def test_right_notices_an_exchanged_row(kit: Kit, triton: TritonServer) -> None:
    with asking(kit, triton) as engine:
        jobs = everything(kit, 2)
        answers = engine.run(jobs)
    answers[0], answers[1] = answers[1], answers[0]
    assert not right(kit, jobs, answers)


def test_tasks_that_see_the_same_frame_differently(kit: Kit, triton: TritonServer, tmp_path: Path) -> None:
    folder = tmp_path / "cropped"
    shutil.copytree(kit.surface.folder, folder)
    task = json.loads((folder / "task.json").read_text())
    task["preprocessing"] |= {"crop_pct": 0.5, "interpolation": "bilinear"}
    (folder / "task.json").write_text(json.dumps(task))
    cropped = fitted(folder, kit.backbone)
    with asking(kit, triton, more={cropped.content_hash: folder}) as engine:
        engine.mount(cropped)
        jobs = jobs_of([[kit.surface.adapter, cropped], [cropped], [kit.grade.adapter]])
        assert far(engine.run(jobs), Engine(kit.backbone).run(jobs)) < SAME * 10


def test_a_batch_is_as_large_as_the_tritons_together_want_it(kit: Kit, both: list[TritonServer]) -> None:
    with asking(kit, *both, mount=False) as engine, asking(kit, both[0], mount=False) as alone:
        assert list(engine.batch_ms) == [2 * size for size in alone.batch_ms]
        assert executor_of(engine).batch_sizes == executor_of(alone).batch_sizes
