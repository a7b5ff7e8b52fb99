"""One batch through the engine: its passes run one after the other, and are waited for once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engines import Member, alone, distance, lora_member
from factories import pictures, random_backbone, stacked
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.plan import Pass
from lensmount_server.engine.reference import ReferenceExecutor
from lensmount_server.engine.runtime import Engine, Executor
from lensmount_server.frames import Still

SHOTS = pictures(3)


class Device(ReferenceExecutor):
    """Computes as a device does: what `run` gives is there only once it was fetched."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.calls: list[str] = []
        self._computed: list[tuple[Tensor, Tensor]] = []

    def run(self, work: Pass, pictures: Tensor) -> list[Tensor]:
        """Promises of logits."""
        self.calls.append("run")
        logits = super().run(work, pictures)
        promised = [torch.full_like(each, float("nan")) for each in logits]
        self._computed += zip(promised, logits, strict=True)
        return promised

    def fetch(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """What was promised."""
        self.calls.append("fetch")
        with torch.inference_mode():
            for promised, computed in self._computed:
                promised.copy_(computed)
        self._computed.clear()
        return list(logits)


class Hasty(Device):
    """Gives promises for answers."""

    def fetch(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """They are not computed yet."""
        return [each.clone() for each in logits]


def smaller(adapter: Adapter) -> Adapter:
    """The same for pictures of another crop, which take a pass of their own."""
    preprocessing = adapter.manifest.preprocessing.model_copy(update={"crop_pct": 0.5})
    manifest = adapter.manifest.model_copy(update={"preprocessing": preprocessing})
    return replace(adapter, manifest=manifest, content_hash=adapter.content_hash[::-1])


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone()


@pytest.fixture(scope="module")
def members(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Member, Member]:
    folder: Path = tmp_path_factory.mktemp("members")
    first, second = (lora_member(folder / str(seed), backbone, seed=seed) for seed in range(2))
    return first, second


def worst(backbone: Backbone, executor: Executor, members: tuple[Member, Member]) -> float:
    """How far the worst row of a batch with two passes, one of them with two groups, is from its own model."""
    other = smaller(members[0].adapter)
    adapters = (members[0].adapter, members[1].adapter, other)
    rows = stacked(backbone, SHOTS)
    cropped = [other.manifest.preprocessing.prepare(shot) for shot in SHOTS]
    answers = Engine(backbone, executor).run([Job(Still(shot), adapters) for shot in SHOTS])
    distances = []
    for frame, (first, second, third) in enumerate(answers):
        distances += [distance(first, alone(backbone, members[0], rows[frame]))]
        distances += [distance(second, alone(backbone, members[1], rows[frame]))]
        distances += [distance(third, alone(backbone, members[0], cropped[frame]))]
    return max(distances) if all(map(torch.isfinite, map(torch.tensor, distances))) else float("inf")


def test_a_batch_of_two_passes_is_waited_for_once_and_behind_both(
    backbone: Backbone, members: tuple[Member, Member]
) -> None:
    device = Device(backbone)
    assert worst(backbone, device, members) < 1e-4
    assert device.calls == ["run", "run", "fetch"]


def test_answers_that_were_not_waited_for_would_be_caught(backbone: Backbone, members: tuple[Member, Member]) -> None:
    assert worst(backbone, Hasty(backbone), members) == float("inf")


def test_a_batch_without_rows_has_no_answers(backbone: Backbone) -> None:
    assert Engine(backbone).run([Job(Still(SHOTS[0]), ())]) == [[]]
