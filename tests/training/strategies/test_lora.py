"""What LoRA edits of each kind, which rank is taken, and that the result is PEFT's own and few numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import timm
import torch
from peft import PeftModel
from safetensors.torch import save_file

from factories import pictures, prepared, random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones.backbone import create_model, wrap
from lensmount_adapters.package import PREFIX
from lensmount_training.context import Context
from lensmount_training.strategies import Lora, Problem, Trained, lora
from lensmount_training.strategies.augment import Augment
from lensmount_training.strategies.descent import Judgement, descend
from lensmount_training.strategies.lora import RANKS
from lensmount_training.strategies.schedule import Schedule
from lensmount_training.strategies.targets import TargetKind, lora_targets
from lensmount_training.strategies.tuned import adapt, full_parameters
from problems import easy_problem, hard_problem

QUICK = Schedule(epochs=2, least_steps=1, batch=8, learning_rate=1e-2)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(cache=tmp_path)


def answers(problem: Problem, trained: Trained) -> float:
    """The share of validation decisions that are right."""
    shots = problem.validation
    with torch.no_grad():
        logits = trained.forward(problem.backbone.preprocessing.normalize(shots.pixels[:]))
    if problem.kind == "multi_label":
        return float(((logits > 0) == (shots.targets > 0.5)).double().mean())
    return float((logits.argmax(1) == shots.targets).double().mean())


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("test_vit", "all-linear", {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}),
        ("test_vit", "qkv", {"attn.qkv"}),
        ("test_vit", "q+v", {"attn.qkv"}),
        ("swin_tiny_patch4_window7_224", "qkv", {"attn.qkv"}),
    ],
)
def test_kinds_of_targets(name: str, kind: TargetKind, expected: set[str]) -> None:
    backbone = random_backbone(name)
    found = {target for own in lora_targets(backbone, 4, kind).values() for target in own}
    assert found
    assert all(any(target == end or target.endswith(f".{end}") for end in expected) for target in found)


def test_the_stem_of_a_vision_transformer_is_a_convolution() -> None:
    assert lora_targets(random_backbone("test_vit"), 8, "convolutions") == {0: ("patch_embed.proj",)}


def test_convolutions_of_any_size() -> None:
    backbone = random_backbone("test_resnet")
    modules = dict(backbone.model.named_modules())
    found = [modules[name] for own in lora_targets(backbone, 3, "convolutions").values() for name in own]
    assert {module.kernel_size for module in found} >= {(1, 1), (3, 3)}


@pytest.mark.parametrize(("kind", "last"), [("qkv", 4), ("q+v", 4)])
def test_a_kind_that_is_not_there(kind: TargetKind, last: int) -> None:
    with pytest.raises(InvalidInputError, match="nothing of this kind") as caught:
        lora_targets(random_backbone("test_efficientnet"), last, kind)
    assert (caught.value.field, bool(caught.value.fix)) == ("targets", True)


def test_a_kind_that_does_not_exist() -> None:
    with pytest.raises(InvalidInputError, match="no such kind") as caught:
        lora_targets(random_backbone("test_vit"), 4, "norms")  # type: ignore[arg-type]
    assert all(kind in str(caught.value.fix) for kind in get_args(TargetKind))


def test_keys_stay_the_backbone_s_to_the_bit(context: Context) -> None:
    problem = hard_problem(count=16)
    strategy = Lora(rank=4, last_segments=3, targets="q+v", schedule=QUICK, views=("identity",))
    trained = strategy.train(problem, context)
    whole = replace(strategy, targets="qkv").train(problem, context)
    both = [name for name in trained.tensors if "qkv.lora_B" in name]
    assert len(both) == 2
    for name in both:
        b, control = trained.tensors[name], whole.tensors[name]
        out = len(b) // 3
        keys = b[out : 2 * out]
        assert not keys.view(torch.int32).any()
        assert b[:out].any()
        assert b[2 * out :].any()
        assert control[out : 2 * out].any()
    assert whole.metrics["trainable_parameters"] - trained.metrics["trainable_parameters"] == 2 * 64 * 4


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
@pytest.mark.parametrize("augment", [Augment(), Augment(randaugment=2, mixup=0.3)])
def test_it_learns(kind: Any, augment: Augment, context: Context) -> None:
    problem = easy_problem(kind=kind)
    schedule = Schedule(epochs=5, least_steps=1, batch=16, learning_rate=1e-2)
    trained = Lora(rank=4, last_segments=3, augment=augment, schedule=schedule).train(problem, context)
    assert answers(problem, trained) >= 0.9
    assert trained.metrics["probe_validation_accuracy"] >= 0.9


def judged(monkeypatch: pytest.MonkeyPatch, judgements: list[Judgement]) -> None:
    """Descents run, and are judged as is said here."""
    said = iter(judgements)
    monkeypatch.setattr(lora, "descend", lambda *all_of: replace(descend(*all_of), judgement=next(said)))


@pytest.mark.parametrize(
    ("accuracies", "error", "rank"),
    [((0.8, 0.9, 0.95), 0.01, 16), ((0.8, 0.94, 0.95), 0.01, 8), ((0.8, 0.9, 0.95), 0.2, 4), ((0.9, 0.9, 0.9), 0.0, 4)],
)
def test_the_lowest_rank_within_the_noise_is_taken(
    accuracies: tuple[float, ...], error: float, rank: int, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, [Judgement(accuracy, error, 1.0) for accuracy in accuracies])
    schedule = replace(QUICK, epochs=1)
    trained = Lora(last_segments=2, schedule=schedule, views=("identity",)).train(hard_problem(count=8), context)
    assert trained.settings["rank"] == rank
    assert trained.settings["alpha"] == 2 * rank
    assert trained.lora is not None
    assert trained.lora["r"] == rank
    assert [trained.metrics[f"rank_{own}_validation_accuracy"] for own in RANKS] == list(accuracies)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "tf_efficientnet_lite0", "resnet18"])
def test_nine_tenths_fewer_numbers_are_trained(name: str) -> None:
    """At the default settings, whichever rank is chosen."""
    backbone = wrap(create_model(name), name)
    problem = replace(hard_problem(), backbone=backbone)
    last = math.ceil(len(backbone.segments) / 2)
    tuned = adapt(problem, lora_targets(backbone, last, Lora.targets), max(RANKS), 2.0 * max(RANKS))
    assert tuned.count <= 0.1 * full_parameters(backbone, 3)


def test_the_count_is_in_the_metrics(context: Context) -> None:
    problem = hard_problem(count=8)
    trained = Lora(rank=2, last_segments=3, schedule=QUICK, views=("identity",)).train(problem, context)
    assert trained.metrics["trainable_parameters"] == trained.parameters
    full = sum(own.numel() for own in problem.backbone.model.parameters()) + 3 * 65
    assert trained.metrics["full_parameters"] == full


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("test_vit", "all-linear"),
        ("test_vit", "q+v"),
        ("test_efficientnet", "convolutions"),
        ("test_resnet", "convolutions"),
    ],
)
def test_peft_itself_loads_the_result(name: str, targets: TargetKind, tmp_path: Path) -> None:
    problem = hard_problem(name, 8)
    backbone = problem.backbone
    strategy = Lora(rank=2, last_segments=3, targets=targets, schedule=QUICK, views=("identity",))
    trained = strategy.train(problem, Context(cache=tmp_path / "cache"))
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file({PREFIX + key: own for key, own in trained.tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(trained.lora))
    model: Any = timm.create_model(name, num_classes=3)
    model.load_state_dict(backbone.model.state_dict(), strict=False)
    loaded = PeftModel.from_pretrained(model, folder).eval()
    x = prepared(backbone, pictures(2))
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), trained.forward(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "field"), [({"rank": 0}, "rank"), ({"rank": 999}, "rank"), ({"last_segments": 99}, "last_segments")]
)
def test_settings_that_can_not_work(change: dict[str, Any], field: str, context: Context) -> None:
    with pytest.raises(InvalidInputError) as caught:
        replace(Lora(rank=4), **change).train(hard_problem(count=8), context)
    assert caught.value.field == field
    assert caught.value.fix


def test_the_same_settings_give_the_same_bits(context: Context) -> None:
    problem = hard_problem(count=8)
    strategy = Lora(rank=2, last_segments=2, schedule=QUICK)
    first, second = (strategy.train(problem, context).tensors for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = strategy.train(replace(problem, seed=1), context).tensors
    assert any(not torch.equal(first[name], other[name]) for name in first)
