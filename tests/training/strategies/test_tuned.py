"""PEFT's edits are really in the segments that are trained, for every family; everything else stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from factories import pictures, prepared, random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.backbone import fingerprint
from lensmount_training.data import Pictures
from lensmount_training.strategies import Problem
from lensmount_training.strategies.targets import lora_targets
from lensmount_training.strategies.tuned import Tuned, adapt

# One small model of each family; what they need to be small is in tests/factories.py.
FAMILIES = (
    "test_vit",
    "test_resnet",
    "test_efficientnet",
    "test_convnext",
    "mobilenetv3_small_050",
    "swin_tiny_patch4_window7_224",
    "densenet121",
)


def problem(backbone: Backbone, seed: int = 0) -> Problem:
    none = Pictures.of(torch.empty(0, 3, 1, 1, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    return Problem(backbone, ("hole", "ok", "stain"), none, none, seed)


def shake(tuned: Tuned) -> None:
    """PEFT starts B at zero; let every edit matter."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.learner(1.0).parameters:
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.05)


def at_fork(backbone: Backbone, fork: int, x: Tensor) -> Tensor:
    for segment in backbone.segments[:fork]:
        x = segment(x)
    return x


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tail_runs_what_peft_edits(name: str) -> None:
    backbone = random_backbone(name)
    targets = lora_targets(backbone, len(backbone.segments) // 2)
    fork = min(targets)
    before = fingerprint(backbone.model)
    x = prepared(backbone, pictures(2))
    tuned = adapt(problem(backbone), targets, 4, 8)
    with torch.no_grad():
        middle = at_fork(backbone, fork, x)
        plain = tuned.tail(middle)
        shake(tuned)
        edited = tuned.tail(middle)
        whole = tuned.peft(x)
        tensors = tuned.tensors()
        merged = tuned.merge()(x)
    scale = float(whole.abs().max())
    assert not plain.any()
    assert float((edited - plain).abs().max()) > 1e-3 * scale
    torch.testing.assert_close(edited, whole, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(merged, whole, rtol=0, atol=1e-4 * scale)
    edited_modules = {key.rsplit(".lora_", 1)[0] for key in tensors if "lora_" in key}
    assert edited_modules == {name for own in targets.values() for name in own}
    assert fingerprint(backbone.model) == before


@pytest.mark.parametrize("name", FAMILIES)
def test_every_edit_gets_a_gradient(name: str) -> None:
    backbone = random_backbone(name)
    targets = lora_targets(backbone, len(backbone.segments) // 2)
    tuned = adapt(problem(backbone), targets, 4, 8)
    shake(tuned)
    with torch.no_grad():
        middle = at_fork(backbone, min(targets), prepared(backbone, pictures(2)))
    tuned.tail(middle).square().sum().backward()  # type: ignore[no-untyped-call]
    learned = {name: p.grad for name, p in tuned.peft.named_parameters() if p.requires_grad}
    assert [name for name, gradient in learned.items() if gradient is None or not gradient.any()] == []
    assert all("lora_" in name or f"{backbone.classifier}.modules_to_save" in name for name in learned)


def test_targets_are_linear_layers_and_plain_pointwise_convolutions() -> None:
    backbone = random_backbone("test_efficientnet")
    targets = lora_targets(backbone, len(backbone.segments))
    modules = dict(backbone.model.named_modules())
    chosen = [modules[name] for own in targets.values() for name in own]
    assert chosen
    assert all(isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.groups == 1 for m in chosen)


def test_only_the_last_segments_are_edited() -> None:
    backbone = random_backbone("test_vit")
    assert {name.split(".")[1] for own in lora_targets(backbone, 3).values() for name in own} == {"4", "5"}
    assert list(lora_targets(backbone, 3)) == [5, 6]


def test_other_convolutions_where_there_is_nothing_else() -> None:
    targets = lora_targets(random_backbone("test_resnet"), 5)
    modules = dict(random_backbone("test_resnet").model.named_modules())
    assert all(isinstance(modules[name], nn.Conv2d) for own in targets.values() for name in own)


def test_segments_without_anything_to_edit_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="nothing that LoRA can edit") as caught:
        lora_targets(random_backbone("test_vit"), 1)  # the final norm alone
    assert caught.value.field == "last_segments"
    assert caught.value.fix


def test_the_seed_decides_where_training_starts() -> None:
    backbone = random_backbone("test_vit")
    targets = lora_targets(backbone, 3)
    torch.manual_seed(123)
    first, second, other = (adapt(problem(backbone, s), targets, 4, 8).tensors() for s in (1, 1, 2))
    drawn = torch.rand(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    torch.manual_seed(123)
    assert torch.equal(drawn, torch.rand(1))  # nobody else's random numbers were touched


def test_the_configuration_names_every_module_in_full() -> None:
    backbone = random_backbone("test_vit")
    targets = lora_targets(backbone, 8)
    config = adapt(problem(backbone), targets, 4, 8).config()
    assert config["target_modules"] == sorted(name for own in targets.values() for name in own)
    assert len(targets) * 4 == 24 == len(list(config["target_modules"]))
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    assert config["base_model_name_or_path"] is None
    assert config["modules_to_save"] == [backbone.classifier]
