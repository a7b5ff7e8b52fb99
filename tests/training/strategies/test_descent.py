"""What training moves and what it leaves, which epoch is kept, and that portions of a batch are the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from factories import random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones.backbone import fingerprint
from lensmount_training.context import Context
from lensmount_training.progress import NoProgress
from lensmount_training.strategies import Problem
from lensmount_training.strategies.augment import Augment
from lensmount_training.strategies.descent import Fit, descend
from lensmount_training.strategies.feed import PooledFeed
from lensmount_training.strategies.learner import Group, Learner
from lensmount_training.strategies.pixel_feed import Feeds, feeds
from lensmount_training.strategies.schedule import Schedule
from lensmount_training.strategies.targets import lora_targets
from lensmount_training.strategies.tuned import Tuned, adapt
from problems import hard_problem, moved

CPU = torch.device("cpu")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(cache=tmp_path)


def tuned_of(problem: Problem, last: int = 3) -> Tuned:
    return adapt(problem, lora_targets(problem.backbone, last), 4, 8)


def learn(tuned: Tuned, schedule: Schedule, problem: Problem, context: Context) -> Fit:
    eaten = feeds(problem, tuned.fork, ("identity",), Augment(), context)
    return descend(tuned.learner(schedule.learning_rate), eaten, schedule, problem, context, {})


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_resnet"])
def test_training_moves_the_edits_and_nothing_else(name: str, context: Context) -> None:
    problem = hard_problem(name, 12)
    tuned = tuned_of(problem, len(problem.backbone.segments) // 2)
    before = {key: value.clone() for key, value in tuned.peft.state_dict().items()}
    fit = learn(tuned, Schedule(epochs=3, least_steps=1, batch=4, learning_rate=1e-2), problem, context)
    after = tuned.peft.state_dict()

    learned = {key for key in after if "lora_" in key or "modules_to_save" in key}
    changed = moved(before, after)
    assert changed <= learned  # BatchNorm statistics are in the state too
    assert {key for key in learned if "lora_B" in key} <= changed
    assert 1 <= fit.epoch <= 3
    assert not tuned.peft.training
    assert fingerprint(problem.backbone.model) == problem.backbone.fingerprint
    if name != "test_vit":
        assert any("running_mean" in key for key in after)


def test_the_best_epoch_is_kept(context: Context) -> None:
    problem = hard_problem()
    tuned = tuned_of(problem)
    schedule = Schedule(epochs=8, least_steps=1, batch=8, learning_rate=3e-2)
    fit = learn(tuned, schedule, problem, context)
    feed = feeds(problem, tuned.fork, ("identity",), Augment(), context).validation
    with torch.no_grad():
        answers = tuned.tail(feed.enter(feed.plain(slice(24)))).argmax(1)
    accuracies = [own.accuracy for own in fit.history]
    assert len(accuracies) == 8
    assert accuracies[fit.epoch - 1] == max(accuracies) == fit.judgement.accuracy
    assert float((answers == feed.targets).double().mean()) == pytest.approx(max(accuracies))


def line(
    features: Tensor, targets: Tensor, schedule: Schedule, context: Context, problem: Problem
) -> tuple[nn.Linear, Fit]:
    """A layer trained on features (n, 1, length)."""
    layer = nn.Linear(features.shape[2], 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    feed = PooledFeed(features, targets, CPU)
    learner = Learner(layer, (Group("head", schedule.learning_rate, tuple(layer.parameters())),))
    return layer, descend(learner, Feeds(feed, feed), schedule, problem, context, {})


def clouds(count: int = 90) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    targets = torch.arange(count) % 3
    return torch.randn(3, 5, generator=random)[targets][:, None] + torch.randn(count, 1, 5, generator=random), targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_portions_of_a_batch_give_the_gradient_of_the_whole(smoothing: float, context: Context) -> None:
    """Classes are uneven, so that a mean of means would be another number."""
    features, _ = clouds()
    targets = torch.tensor([0] * 70 + [1] * 15 + [2] * 5)
    problem = hard_problem(count=90)
    uneven = replace(problem, train=replace(problem.train, targets=targets))
    trained = [
        line(
            features,
            targets,
            Schedule(epochs=2, least_steps=1, micro_batch=size, label_smoothing=smoothing, learning_rate=0.1),
            context,
            uneven,
        )[0]
        for size in (32, 8, 5)
    ]
    for other in trained[1:]:
        torch.testing.assert_close(other.weight, trained[0].weight, rtol=1e-4, atol=1e-5)


def test_a_step_is_that_of_torch(context: Context) -> None:
    """One step over everything, against PyTorch's own loss and optimiser, class weights and smoothing included."""
    features, targets = clouds(30)
    problem = hard_problem(count=30)
    schedule = Schedule(epochs=1, least_steps=1, batch=30, micro_batch=7, learning_rate=0.1, label_smoothing=0.1)
    layer, _ = line(features, targets, schedule, context, problem)
    oracle = nn.Linear(5, 3)
    nn.init.zeros_(oracle.weight)
    nn.init.zeros_(oracle.bias)
    optimizer = torch.optim.AdamW(oracle.parameters(), lr=0.1, weight_decay=schedule.weight_decay)
    loss = nn.functional.cross_entropy(oracle(features[:, 0]), targets, problem.class_weights, label_smoothing=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    torch.testing.assert_close(layer.weight, oracle.weight)


def test_averaged_values_are_judged_and_kept(context: Context) -> None:
    features, targets = clouds()
    problem = hard_problem(count=90)
    plain = Schedule(epochs=3, least_steps=1, learning_rate=0.3, batch=10)
    last, _ = line(features, targets, plain, context, problem)
    averaged, fit = line(features, targets, Schedule(**{**vars(plain), "ema": 0.9}), context, problem)
    assert not torch.equal(last.weight, averaged.weight)
    with torch.no_grad():
        accuracy = float((averaged(features[:, 0]).argmax(1) == targets).double().mean())
    assert accuracy == pytest.approx(fit.judgement.accuracy)


def test_training_ends_when_nothing_gets_better(context: Context) -> None:
    """With a rate of next to nothing the loss sinks for ever; with a huge one it does not."""
    features, targets = clouds()
    problem = hard_problem(count=90)
    wild = {"epochs": 30, "least_steps": 1, "learning_rate": 30.0, "warmup": 0.0}
    _, fit = line(features, targets, Schedule(**wild, patience=2), context, problem)  # type: ignore[arg-type]
    _, whole = line(features, targets, Schedule(**wild), context, problem)  # type: ignore[arg-type]
    assert len(fit.history) == fit.epoch + 2 < 30
    assert len(whole.history) == 30


def test_a_loss_that_is_no_number_names_the_learning_rate(context: Context) -> None:
    features, targets = clouds()
    with pytest.raises(InvalidInputError, match="no longer a finite number") as caught:
        line(features * 1e20, targets, Schedule(learning_rate=1e30), context, hard_problem(count=90))
    assert caught.value.field == "learning_rate"
    assert "--learning-rate" in str(caught.value.fix)


def test_scalars_are_logged(context: Context) -> None:
    features, targets = clouds()
    found: dict[str, list[tuple[int, float]]] = {}

    def log(name: str, value: float, step: int) -> None:
        found.setdefault(name, []).append((step, value))

    own = Context(cache=context.cache, log=log)
    _, fit = line(features, targets, Schedule(epochs=2, least_steps=1, learning_rate=0.1), own, hard_problem(count=90))
    assert found.keys() == {"loss", "learning_rate/head", "validation_accuracy", "validation_loss"}
    assert [step for step, _ in found["loss"]] == list(range(6))
    assert max(rate for _, rate in found["learning_rate/head"]) == pytest.approx(0.1)
    assert found["validation_accuracy"] == [(3, fit.history[0].accuracy), (6, fit.history[1].accuracy)]


class Said(NoProgress):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, text: str) -> None:
        self.sentences.append(text)


class Small(nn.Linear):
    """A layer for which more than `limit` rows at once are too many."""

    limit = 3
    failure: Callable[[], Exception] = torch.cuda.OutOfMemoryError
    learning = True

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.limit and torch.is_grad_enabled() == self.learning:
            raise type(self).failure()
        return super().forward(x)


def cpu_failure() -> Exception:
    return RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried …")


def small(context: Context, limit: int, monkeypatch: pytest.MonkeyPatch, size: int = 8) -> Tensor:
    monkeypatch.setattr(Small, "limit", limit)
    features, targets = clouds()
    layer = Small(5, 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    feed = PooledFeed(features, targets, CPU)
    schedule = Schedule(epochs=2, least_steps=1, micro_batch=size)
    learner = Learner(layer, (Group("head", 0.1, tuple(layer.parameters())),))
    descend(learner, Feeds(feed, feed), schedule, hard_problem(count=90), context, {})
    return layer.weight.detach()


@pytest.mark.parametrize("failure", [torch.cuda.OutOfMemoryError, cpu_failure])
def test_full_memory_makes_portions_smaller(
    failure: Callable[[], Exception], context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Said()
    monkeypatch.setattr(Small, "failure", staticmethod(failure))
    found = small(Context(progress=said, cache=context.cache), 3, monkeypatch)
    assert len(said.sentences) == 1
    assert "memory" in said.sentences[0]
    torch.testing.assert_close(found, small(context, 99, monkeypatch, size=2))


def test_judging_takes_smaller_portions_too(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said()
    monkeypatch.setattr(Small, "learning", False)
    found = small(Context(progress=said, cache=context.cache), 3, monkeypatch)
    assert ["validation" in text for text in said.sentences] == [True]
    torch.testing.assert_close(found, small(context, 99, monkeypatch))
    with pytest.raises(InvalidInputError, match="not enough for one picture") as caught:
        small(context, 0, monkeypatch)
    assert caught.value.field == "memory"
    monkeypatch.setattr(Small, "failure", staticmethod(lambda: RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        small(context, 3, monkeypatch)


def test_memory_that_is_not_enough_for_one_picture(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="not enough for one picture") as caught:
        small(context, 0, monkeypatch)
    assert caught.value.fix


def test_another_error_is_not_taken_for_full_memory(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Small, "failure", staticmethod(lambda: RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        small(context, 3, monkeypatch)


def test_mixed_precision_learns_too(context: Context) -> None:
    problem = hard_problem(count=12)
    results = []
    for bf16 in (False, True):
        tuned = tuned_of(problem)
        learn(tuned, Schedule(epochs=2, least_steps=1, bf16=bf16), problem, context)
        results.append(tuned.tensors())
    assert all(tensor.dtype == torch.float32 for tensor in results[1].values())
    name = next(name for name in results[0] if "lora_B" in name)
    assert not torch.equal(results[0][name], results[1][name])
    torch.testing.assert_close(results[1][name], results[0][name], rtol=0.5, atol=5e-3)


def test_the_global_random_state_is_nobody_s(context: Context) -> None:
    problem = hard_problem(count=12)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    learn(tuned_of(problem), Schedule(epochs=1, least_steps=1), problem, context)
    assert torch.equal(torch.rand(3), expected)
    assert random_backbone("test_vit").fingerprint == problem.backbone.fingerprint
