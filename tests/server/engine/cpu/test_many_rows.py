"""A hundred thousand rows through the fast executors, each held against what its adapter's own model says.

Pictures are 32 pixels wide, so that this takes seconds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engines import Member, SideBySide, head_member, lora_form, lora_member, merged_form, replaced_member
from factories import pictures, random_backbone, stacked
from lensmount_adapters.heads import HeadSpec
from lensmount_server.engine.cpu.eager import EagerCompiler
from lensmount_server.engine.cpu.executor import CpuExecutor
from lensmount_server.engine.cpu.openvino import OpenVinoCompiler
from lensmount_server.engine.cpu.units import Compiler, Options
from lensmount_server.engine.plan import plan

ROWS = 100_000
FRAMES = 48
TOLERANCE = 1e-4
OPTIONS = Options((1, 2, 4, 8), wide=True)


@dataclass(frozen=True, eq=False)
class Crowd:
    """Members, frames, and the logits (frames, labels) that each member's own model gives them."""

    members: tuple[Member, ...]
    rows: Tensor
    expected: dict[str, Tensor]


@pytest.fixture(scope="module", params=["test_resnet", "test_efficientnet"])
def crowd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Crowd:
    return make_crowd(request.param, tmp_path_factory.mktemp("crowd"))


def make_crowd(name: str, folder: Path) -> Crowd:
    backbone = random_backbone(name)
    small = backbone.preprocessing.model_copy(update={"height": 32, "width": 32})
    backbone = replace(backbone, preprocessing=small)
    members = (
        *(lora_member(folder / f"a{i}", backbone, segments=(-2,), rank=1 + i, seed=i) for i in range(4)),
        *(lora_member(folder / f"b{i}", backbone, segments=(-3,), rank=2, seed=10 + i) for i in range(2)),
        *(replaced_member(folder / f"c{i}", backbone, segments=(-1,), seed=20 + i) for i in range(2)),
        *(head_member(folder / f"d{i}", backbone, HeadSpec(), seed=30 + i) for i in range(2)),
    )
    rows = stacked(backbone, pictures(FRAMES, size=(40, 40)))
    with torch.inference_mode():
        x = small.normalize(rows)
        expected = {member.adapter.content_hash: member.oracle(x) for member in members}
    return Crowd(members, rows, expected)


@pytest.fixture(params=["torch-lora", "torch-merged", "openvino-lora", "openvino-merged"])
def executor(request: pytest.FixtureRequest, crowd: Crowd) -> Iterator[CpuExecutor]:
    engine, form = request.param.split("-")
    backbone = random_backbone(crowd.members[0].adapter.manifest.backbone.name)
    backbone = replace(backbone, preprocessing=crowd.members[0].adapter.manifest.preprocessing)
    real: Compiler = EagerCompiler(backbone, "fp32") if engine == "torch" else OpenVinoCompiler(backbone, "fp32", 2)
    compiler = SideBySide(real)
    made = (
        lora_form(backbone, compiler, OPTIONS)
        if form == "lora"
        else merged_form(backbone, compiler, OPTIONS, crowd.members)
    )
    yield made
    made.close()


def run_rows(executor: CpuExecutor, crowd: Crowd, least: int, seed: int) -> tuple[int, int]:
    """Run random batches of at least so many rows in all; how many ran, and how many of them were wrong."""
    rng, count, wrong = random.Random(seed), 0, 0
    while count < least:
        frames = rng.sample(range(FRAMES), rng.randint(1, FRAMES))
        wanted = [
            (frame, member.adapter)
            for member in rng.sample(crowd.members, rng.randint(1, len(crowd.members)))
            for frame in frames
            if rng.random() < 0.8
        ]
        for work in plan(wanted):
            logits = executor.run(work, crowd.rows[list(work.frames)])
            for group, got in zip(work.groups, logits, strict=True):
                expected = crowd.expected[group.adapter.content_hash][[work.frames[i] for i in group.frames]]
                scale = expected.abs().amax(dim=1)
                wrong += int((~((got - expected).abs().amax(dim=1) <= TOLERANCE * scale)).sum())
                count += len(got)
    return count, wrong


def test_no_row_of_many_is_wrong(executor: CpuExecutor, crowd: Crowd) -> None:
    """A hundred thousand over both backbones and all four forms."""
    count, wrong = run_rows(executor, crowd, ROWS // 8, seed=len(executor.name))
    assert count >= ROWS // 8
    assert wrong == 0


def test_any_two_answers_are_apart(crowd: Crowd) -> None:
    """Otherwise a row that is another's could pass."""
    for expected in crowd.expected.values():
        others = [other for other in crowd.expected.values() if other is not expected]
        for other in others:
            assert apart(expected, other) > 10 * TOLERANCE
        for step in range(1, FRAMES):
            assert apart(expected, expected.roll(step, dims=0)) > 10 * TOLERANCE


def apart(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().amax(dim=1) / a.abs().amax(dim=1)).min())


def test_a_single_wrong_row_is_counted(crowd: Crowd) -> None:
    backbone = random_backbone(crowd.members[0].adapter.manifest.backbone.name)
    made = lora_form(
        replace(backbone, preprocessing=crowd.members[0].adapter.manifest.preprocessing),
        SideBySide(EagerCompiler(backbone, "fp32")),
        OPTIONS,
    )
    first = crowd.members[0].adapter.content_hash
    spoilt = crowd.expected[first].clone()
    spoilt[0] = spoilt[1]
    _, wrong = run_rows(made, replace(crowd, expected={**crowd.expected, first: spoilt}), 3000, seed=3)
    assert wrong > 0
    made.close()
