"""The learning rate's course, what training moves and what it leaves, and which epoch is kept."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from factories import pictures, random_backbone, stacked
from lensmount.errors import InvalidInputError
from lensmount_training.data import Pictures
from lensmount_training.features import at_fork
from lensmount_training.progress import NoProgress
from lensmount_training.strategies import Problem
from lensmount_training.strategies.descent import Schedule, descend
from lensmount_training.strategies.tuned import adapt, lora_targets


@given(st.integers(1, 500), st.floats(0, 0.5))
def test_the_rate_rises_then_falls_to_nothing(steps: int, warmup: float) -> None:
    schedule = Schedule(warmup=warmup)
    factors = [schedule.factor(step, steps) for step in range(steps)]
    peak = factors.index(max(factors))
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert schedule.factor(steps, steps) < 1e-9 or steps == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("learning_rate", 0.0), ("learning_rate", -1.0), ("learning_rate", math.nan), ("epochs", 0), ("batch", 0)],
)
def test_numbers_that_can_not_work(field: str, value: float) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Schedule(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field
    assert caught.value.fix


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_resnet"])
def test_training_moves_the_edits_and_nothing_else(name: str) -> None:
    backbone = random_backbone(name)
    targets = lora_targets(backbone, len(backbone.segments) // 2)
    pixels, labels = stacked(backbone, pictures(12)), torch.arange(12) % 3
    parts = Pictures(pixels, labels)
    problem = Problem(backbone, ("a", "b", "c"), parts, parts, seed=0)
    tuned = adapt(problem, targets, 4, 8)
    cache = at_fork(backbone, min(targets), parts, ("identity",), NoProgress())

    before = {key: value.clone() for key, value in tuned.peft.state_dict().items()}
    epoch = descend(
        tuned, cache, cache, Schedule(epochs=3, least_steps=1, batch=4, learning_rate=1e-2), problem, NoProgress()
    )
    after = tuned.peft.state_dict()

    learned = {key for key in after if "lora_" in key or "modules_to_save" in key}
    moved = {key for key in after if not torch.equal(before[key], after[key])}
    assert moved <= learned  # BatchNorm statistics are in the state too
    assert {key for key in learned if "lora_B" in key} <= moved
    assert 1 <= epoch <= 3
    assert not tuned.peft.training
    if name != "test_vit":
        assert any("running_mean" in key for key in after)


class Epochs(NoProgress):
    """Keeps what the bar says of every epoch."""

    def __init__(self) -> None:
        self.accuracies: list[float] = []

    def bar(self, label: str, total: int) -> Epochs:  # noqa: ARG002 the protocol has them
        return self

    def advance(self, count: int = 1, note: str = "") -> None:  # noqa: ARG002 the protocol has them
        if note:
            self.accuracies.append(float(note.rsplit(" ", 1)[1]))


def test_the_best_epoch_is_kept() -> None:
    backbone = random_backbone("test_vit")
    targets = lora_targets(backbone, 3)
    parts = Pictures(stacked(backbone, pictures(24)), torch.arange(24) % 3)
    problem = Problem(backbone, ("a", "b", "c"), parts, parts, seed=0)
    tuned = adapt(problem, targets, 4, 8)
    cache = at_fork(backbone, min(targets), parts, ("identity",), NoProgress())
    said = Epochs()
    schedule = Schedule(epochs=8, least_steps=1, batch=8, learning_rate=3e-2)
    best = descend(tuned, cache, cache, schedule, problem, said)
    with torch.no_grad():
        answers = tuned.tail(cache.activations[:, 0].float()).argmax(1)
    assert len(said.accuracies) == 8
    assert said.accuracies[best - 1] == max(said.accuracies)
    assert float((answers == cache.targets).double().mean()) == pytest.approx(max(said.accuracies), abs=1e-3)


@pytest.mark.parametrize(("pictures", "epochs"), [(1, 100), (32, 100), (33, 50), (320, 10), (10_000, 8)])
def test_small_sets_get_more_epochs(pictures: int, epochs: int) -> None:
    assert Schedule(epochs=8, least_steps=100, batch=32).epochs_for(pictures) == epochs
