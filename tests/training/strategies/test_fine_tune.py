"""What is frozen stays, blocks are unfrozen from the top at the rates that were asked for, and only steps that help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from factories import manifest, pictures, prepared, random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.adapter import fit
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.backbone import fingerprint
from lensmount_adapters.lora import LoraConfig
from lensmount_adapters.package import Content
from lensmount_training.context import Context
from lensmount_training.progress import NoProgress
from lensmount_training.strategies import FineTune, FromScratch, Problem, Trained, fine_tune
from lensmount_training.strategies.augment import Augment
from lensmount_training.strategies.descent import Fit, Judgement, descend
from lensmount_training.strategies.schedule import Schedule
from lensmount_training.strategies.whole import blocks, randomise, whole
from problems import easy_problem, hard_problem, moved

QUICK = Schedule(epochs=1, least_steps=1, batch=8, learning_rate=1e-3)
FAST = FineTune(schedule=QUICK, head_epochs=1, shallow_rate=1e-3, deep_rate=1e-4, views=("identity",))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(cache=tmp_path)


class Said(NoProgress):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, text: str) -> None:
        self.sentences.append(text)


class Judged:
    """Lets every descent run and says what its validation was; keeps what the descents were given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> None:
        self.groups: list[dict[str, float]] = []
        self.values: list[list[Tensor]] = []
        self._accuracies = iter(accuracies)
        monkeypatch.setattr(fine_tune, "descend", self)

    def __call__(self, learner: Any, *rest: Any) -> Fit:
        self.groups.append({group.name: group.rate for group in learner.groups})
        found = descend(learner, *rest)
        self.values.append([tensor.clone() for tensor in learner.state])
        return replace(found, judgement=Judgement(next(self._accuracies), 0.0, 1.0))


def served(problem: Problem, trained: Trained) -> tuple[Tensor, Tensor]:
    """Logits of the strategy, and of its tensors as a package on the backbone."""
    backbone = problem.backbone
    config = LoraConfig.model_validate(trained.lora) if trained.lora else None
    own = Content(manifest(backbone, "t", len(problem.labels), trained.edits), config, trained.tensors, "0" * 64)
    adapter = fit(own, backbone)
    changed = adapter.merged(backbone.model)
    x = prepared(backbone, pictures(2))
    with torch.no_grad():
        expected = trained.forward(x)
        for segment in backbone.segments:
            mine = {name: tensor for name, tensor in changed.items() if segment.owns_tensor(name)}
            x = segment.run_replaced(mine, x) if mine else segment(x)
        return adapter.head(backbone.pool(x)), expected


def test_a_step_of_unfreezing_ends_at_the_next_matrix() -> None:
    vit = random_backbone("test_vit")
    assert [segment.name for segment in vit.segments][-2:] == ["blocks.5", "norm"]
    assert blocks(vit) == (6, 5, 4, 3, 2, 1, 0)
    lite = random_backbone("test_efficientnet")
    assert blocks(lite) == tuple(reversed(range(len(lite.segments))))


def test_rates_of_every_step(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = Judged(monkeypatch, [0.1, 0.2, 0.3, 0.4])
    strategy = replace(FAST, last_segments=4, shallow_rate=1e-4, deep_rate=1e-5, layer_decay=0.5)
    strategy.train(hard_problem(count=8), context)
    assert judged.groups == [
        {"head": 1e-3},
        {"head": 1e-3, "norm": 1e-4, "blocks.5": 1e-4},
        {"head": 1e-3, "norm": 1e-4, "blocks.5": 1e-4, "blocks.4": 0.5e-4},
        {"head": 1e-3, "norm": 1e-4, "blocks.5": 1e-4, "blocks.4": 0.5e-4, "blocks.3": 0.25e-5},
    ]


def test_everything_at_once_learns_slowly(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = Judged(monkeypatch, [0.1, 0.2])
    trained = replace(FAST, full=True, deep_rate=1e-5).train(hard_problem(count=8), context)
    assert set(judged.groups[1].values()) == {1e-3, 1e-5}
    assert len(judged.groups[1]) == len(trained.edits) + 1 == 9
    assert trained.edits[0].segment == "stem"


def test_a_step_that_does_not_help_is_taken_back_and_is_the_last(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = hard_problem(count=8)
    judged = Judged(monkeypatch, [0.5, 0.6, 0.6])
    trained = replace(FAST, last_segments=6).train(problem, context)
    assert len(judged.groups) == 3  # the head, blocks.5 and, in vain, blocks.4
    assert [edit.segment for edit in trained.edits] == ["blocks.5", "norm"]
    kept = [trained.tensors[f"{problem.backbone.classifier}.{what}"] for what in ("weight", "bias")]
    assert all(map(torch.equal, kept, judged.values[1]))
    assert not any(map(torch.equal, kept, judged.values[2]))


def test_when_nothing_helps_there_is_a_head(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = hard_problem(count=8)
    judged = Judged(monkeypatch, [0.5, 0.4])
    trained = FAST.train(problem, context)
    assert trained.edits == ()
    assert set(trained.tensors) == {"head.weight", "head.bias"}
    assert torch.equal(trained.tensors["head.weight"], judged.values[0][0])


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_resnet"])
def test_what_is_frozen_stays_to_the_bit(name: str, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    Judged(monkeypatch, [0.1, 0.2, 0.3])
    problem = hard_problem(name, 8)
    backbone = problem.backbone
    trained = replace(FAST, last_segments=3 if name == "test_vit" else 2).train(problem, context)
    state = backbone.model.state_dict()
    changed = moved({key: own for key, own in trained.tensors.items() if key in state}, state)
    edited = [own for own in backbone.segments if own.name in {edit.segment for edit in trained.edits}]
    assert len(edited) >= 2
    assert {
        key for key in state if any(own.owns_tensor(key) for own in edited)
    } == trained.tensors.keys() & state.keys()
    assert changed
    assert not [key for key in changed if "running_" in key or "num_batches" in key]
    assert fingerprint(backbone.model) == backbone.fingerprint
    found, expected = served(problem, trained)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_statistics_follow_where_it_is_wanted(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: with `batch_norm` those of the unfrozen segments move, and no others are there."""
    Judged(monkeypatch, [0.1, 0.2])
    problem = hard_problem("test_efficientnet", 8)
    trained = replace(FAST, last_segments=1, batch_norm=True).train(problem, context)
    state = problem.backbone.model.state_dict()
    statistics = {key: own for key, own in trained.tensors.items() if "running_" in key}
    assert statistics
    assert moved(statistics, state) == statistics.keys()
    found, expected = served(problem, trained)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_it_learns(kind: Any, context: Context) -> None:
    problem = easy_problem(kind=kind)
    schedule = Schedule(epochs=4, least_steps=1, learning_rate=3e-3)
    trained = replace(FAST, schedule=schedule, head_epochs=4).train(problem, context)
    shots = problem.validation
    with torch.no_grad():
        logits = trained.forward(problem.backbone.preprocessing.normalize(shots.pixels[:]))
    right = (logits > 0) == (shots.targets > 0.5) if kind == "multi_label" else logits.argmax(1) == shots.targets
    assert float(right.double().mean()) >= 0.9


def test_augmented_pixels_go_through_the_frozen_prefix(context: Context) -> None:
    problem = easy_problem()
    augment = Augment(randaugment=2, mixup=0.2, cutmix=0.2)
    schedule = Schedule(epochs=4, least_steps=1, learning_rate=3e-3)
    strategy = replace(FAST, schedule=schedule, head_epochs=4, augment=augment, last_segments=2)
    trained = strategy.train(problem, context)
    with torch.no_grad():
        logits = trained.forward(problem.backbone.preprocessing.normalize(problem.validation.pixels[:]))
    assert float((logits.argmax(1) == problem.validation.targets).double().mean()) >= 0.9
    assert (trained.settings["randaugment"], trained.settings["mixup"]) == (2, 0.2)


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_as_lora_it_answers_the_same(kind: Any, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    Judged(monkeypatch, [0.1, 0.2, 0.1, 0.2])
    problem = easy_problem(kind=kind, count=16)
    strategy = replace(FAST, last_segments=2, shallow_rate=1e-2, schedule=replace(QUICK, epochs=3))
    plain = strategy.train(problem, context)
    low = replace(strategy, as_lora=True, max_loss=0.0).train(problem, context)
    assert "lora" in {edit.kind for edit in low.edits}
    assert low.lora is not None
    assert low.metrics["kept_parameters"] < plain.parameters
    shots = problem.backbone.preprocessing.normalize(problem.validation.pixels[:])
    with torch.no_grad():
        one, other = plain.forward(shots), low.forward(shots)
    agree = (one > 0) == (other > 0) if kind == "multi_label" else one.argmax(1) == other.argmax(1)
    assert float(agree.double().mean()) >= 0.9
    found, expected = served(problem, low)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_lora_can_not_hold_stays_replaced(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics that moved in every segment that was unfrozen."""
    Judged(monkeypatch, [0.1, 0.2])
    said = Said()
    strategy = replace(FAST, last_segments=1, batch_norm=True, as_lora=True)
    trained = strategy.train(hard_problem("test_efficientnet", 8), replace(context, progress=said))
    assert {edit.kind for edit in trained.edits} == {"replace"}
    assert trained.lora is None
    assert "stays" in said.sentences[0]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"last_segments": 0}, "last_segments"),
        ({"last_segments": 99}, "last_segments"),
        ({"deep_rate": 0.0}, "deep_rate"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"head_epochs": 0}, "head_epochs"),
        ({"views": ("hflip",)}, "views"),
    ],
)
def test_settings_that_can_not_work(change: dict[str, Any], field: str, context: Context) -> None:
    with pytest.raises(InvalidInputError) as caught:
        replace(FAST, **change).train(hard_problem(count=8), context)
    assert caught.value.field == field
    assert caught.value.fix


def test_from_scratch_everything_is_drawn_anew_and_learned(context: Context) -> None:
    problem = hard_problem("test_efficientnet", 8)
    trained = FromScratch(("identity",), schedule=QUICK).train(problem, context)
    state = problem.backbone.model.state_dict()
    matrices = {key for key, own in state.items() if own.ndim > 1}
    assert matrices <= moved(state, trained.tensors)
    assert {edit.segment for edit in trained.edits} == {segment.name for segment in problem.backbone.segments}
    found, expected = served(problem, trained)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_weights_are_drawn_from_the_seed_alone(name: str) -> None:
    backbone: Backbone = random_backbone(name)
    copies = [whole(backbone, 3) for _ in range(3)]
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    for own, seed in zip(copies, (1, 1, 2), strict=True):
        randomise(own.model, seed)
    assert torch.equal(torch.rand(2), expected)
    first, same, other = (own.model.state_dict() for own in copies)
    assert not moved(first, same)
    assert {key for key in first if first[key].ndim > 1} <= moved(first, other)
