"""No side is timed at less than the whole work: the same pictures, epochs, steps, trained parameters and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lensmount_training.bench import lora_step, naive, probe, tail
from lensmount_training.bench.setting import Setting
from lensmount_training.context import Context
from lensmount_training.strategies import Problem

NAMES = ["test_vit", "test_efficientnet"]
# Cached activations are float16.
CLOSE = 0.01

Settings = Callable[[str], Setting]


def shaken(parameters: Iterable[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """A head of zeros, or a B of zeros, would keep gradients from everything below."""
    random = torch.Generator().manual_seed(0)
    own = list(parameters)
    for parameter in own:
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=random)
    return own


def alike(ours: Iterable[torch.nn.Parameter], theirs: Iterable[torch.nn.Parameter]) -> None:
    for own, other in zip(ours, theirs, strict=True):
        assert own.grad is not None
        assert other.grad is not None
        assert float(other.grad.norm()) > 0
        assert float((own.grad - other.grad).norm() / other.grad.norm()) < CLOSE


def a_batch(own: Setting) -> Problem:
    return lora_step.batch_of(own.material, own.backbone, own.cache)


def normalised(problem: Problem) -> Tensor:
    return problem.backbone.preprocessing.normalize(problem.train.pixels[:])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_the_last_blocks(name: str, setting: Settings, short: None) -> None:
    own = setting(name)
    problem = a_batch(own)
    learner = tail.learner_of(problem)
    model, groups = naive.last_blocks(own.backbone, 3, tail.BLOCKS, tail.RATES)
    theirs = [parameter for group in groups for parameter in group["params"]]
    assert [group["lr"] for group in groups] == [group.rate for group in learner.groups]
    for parameter, other in zip(shaken(learner.parameters), theirs, strict=True):
        other.data.copy_(parameter.data)
    optimizer = torch.optim.SGD(groups)
    naive.step(model, optimizer, normalised(problem), problem.train.targets)
    tail.train(learner, problem, Context(cache=own.cache))
    alike(learner.parameters, theirs)
    everything = {parameter for parameter in model.parameters() if parameter.requires_grad}
    assert everything == {*theirs}


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_lora(name: str, setting: Settings, short: None) -> None:
    own = setting(name)
    problem = a_batch(own)
    ours, rival = lora_step.ours(problem, Context(cache=own.cache)), lora_step.rival(problem)
    assert ours.parameters.keys() == rival.parameters.keys()
    assert any("lora_A" in name for name in ours.parameters)
    shaken(ours.parameters.values())
    for name_, parameter in rival.parameters.items():
        parameter.data.copy_(ours.parameters[name_].data)
    rival.run()
    ours.run()
    alike(ours.parameters.values(), rival.parameters.values())


def test_other_pictures_would_show(setting: Settings, short: None) -> None:
    """The negative control of the gradients."""
    own = setting("test_vit")
    problem = a_batch(own)
    ours, rival = lora_step.ours(problem, Context(cache=own.cache)), lora_step.rival(problem)
    shaken(ours.parameters.values())
    for name, parameter in rival.parameters.items():
        parameter.data.copy_(ours.parameters[name].data)
    problem.train.targets.copy_(problem.train.targets.roll(1))
    rival.run()
    problem.train.targets.copy_(problem.train.targets.roll(-1))
    ours.run()
    with pytest.raises(AssertionError):
        alike(ours.parameters.values(), rival.parameters.values())


def test_a_head_takes_as_many_steps_on_both_sides_and_both_learn(
    setting: Settings, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = setting("test_vit")
    steps: list[int] = []
    judged: list[float] = []
    step, accuracy = naive.step, naive.accuracy

    def counted(forward: naive.Forward, optimizer: torch.optim.Optimizer, x: Tensor, targets: Tensor) -> None:
        steps.append(len(x))
        step(forward, optimizer, x, targets)

    def noted(forward: naive.Forward, loader: DataLoader[Any]) -> float:
        judged.append(accuracy(forward, loader))
        return judged[-1]

    monkeypatch.setattr(naive, "step", counted)
    monkeypatch.setattr(naive, "accuracy", noted)
    theirs = naive.train_head(own.backbone, own.material, probe.EPOCHS, probe.RATE)
    assert sum(steps) == probe.EPOCHS * 45
    assert len(judged) == probe.EPOCHS
    assert theirs == max(judged)

    logged: list[str] = []
    problem = own.material.problem(own.backbone, own.cache)
    probe.STRATEGY.train(problem, Context(cache=own.cache, log=lambda name, *_: logged.append(name)))
    assert logged.count("loss") == len(steps)
    assert logged.count("validation_accuracy") == len(judged)
    # A third by guessing; random weights, so that more is not to be had from every picture.
    assert min(probe.ours(own, own.cache), theirs) > 0.5


def test_workers_load_the_same_batches(setting: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    own = setting("test_vit")
    found: list[list[Tensor]] = []
    for workers in (0, 2):
        monkeypatch.setattr(naive, "WORKERS", workers)
        found.append([part for batch in naive.Loaders.of(own.material, own.backbone).train for part in batch])
    assert all(torch.equal(here, there) for here, there in zip(*found, strict=True))


def test_the_first_run_finds_nothing_and_the_next_everything(setting: Settings, short: None, tmp_path: Path) -> None:
    own = setting("test_vit")
    assert own.fresh("new-cache") != own.fresh("new-cache")
    assert not any(own.cache.iterdir())
    first = probe.ours(own, own.cache)
    shards = sorted(own.cache.rglob("rows.npy"))
    assert shards
    assert probe.ours(own, own.cache) == first
    assert sorted(own.cache.rglob("rows.npy")) == shards
