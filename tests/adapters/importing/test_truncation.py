"""Whole models as LoRA: full rank is the model itself, lower ranks are judged truthfully, the lowest good one wins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from factories import merged_model, pictures, random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.golden import Golden
from lensmount_adapters.importing.packing import package_logits
from lensmount_adapters.importing.plan import merged_weights
from lensmount_adapters.importing.ranking import Trial, choose
from lensmount_adapters.importing.request import Report, Request
from lensmount_adapters.importing.trained import Trained
from lensmount_adapters.importing.truncation import decompose
from lensmount_adapters.importing.workflow import import_adapter
from lensmount_adapters.package import read_package
from vits import logits_of

LABELS = ("a", "b", "c")


def tuned(backbone: Backbone, rank: int | None = None, size: float = 0.3, *, names: str = "weight") -> nn.Module:
    """The backbone with a classifier, weights that LoRA can edit moved by noise of this rank, or of full rank."""
    model = merged_model(backbone, 3, seed=4)
    random = torch.Generator().manual_seed(1)
    for segment in backbone.segments[-4:]:
        for name, module in segment.editable_modules().items():
            if getattr(module, "groups", 1) > 1:
                continue
            weight = model.get_parameter(f"{name}.weight").data
            flat = weight.flatten(1)
            noise = torch.randn(flat.shape, generator=random)
            if rank is not None:
                left = torch.randn((len(flat), rank), generator=random)
                noise = left @ torch.randn((rank, flat.shape[1]), generator=random) / rank**0.5
            weight += (noise * flat.std() * size).reshape(weight.shape)
            if names == "all" and getattr(module, "bias", None) is not None:
                model.get_parameter(f"{name}.bias").data += 0.1
    return model


def folder_of(path: Path, count: int = 40, targets: Tensor | None = None) -> Path:
    for i, shot in enumerate(pictures(count, seed=3)):
        inner = path / LABELS[int(targets[i])] if targets is not None else path
        inner.mkdir(parents=True, exist_ok=True)
        Image.fromarray(shot).save(inner / f"{i:03d}.png")
    return path


def imported(model: nn.Module, folder: Path, backbone: Backbone, /, **changes: Any) -> Report:
    save_file(dict(backbone.model.state_dict()), folder / "backbone.safetensors")
    save_file(dict(model.state_dict()), folder / "tuned.safetensors")
    values = {
        "source": str(folder / "tuned.safetensors"), "out": folder / "out", "task": "grade", "labels": LABELS,
        "backbone": backbone.name, "weights": folder / "backbone.safetensors", "form": "lora",
    }  # fmt: skip
    return import_adapter(Request(**{**values, **changes}))


def answers(model: nn.Module, backbone: Backbone, count: int = 40) -> Tensor:
    own = backbone.preprocessing
    return logits_of(model, own.normalize(torch.stack([own.prepare(shot) for shot in pictures(count, seed=3)])))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_full_rank_is_the_model_itself(name: str) -> None:
    backbone = random_backbone(name)
    model = tuned(backbone)
    change = decompose(Trained({}, dict(model.state_dict())), backbone)
    at = change.at(change.full_rank)
    merged = {**merged_weights(at.modules, backbone), **at.tensors}
    for key, tensor in merged.items():
        assert torch.allclose(tensor, model.state_dict()[key], atol=1e-5 * float(tensor.abs().max())), key
    assert not change.dropped


def test_a_lower_rank_is_the_nearest_of_its_rank(vit: Backbone) -> None:
    model = tuned(vit)
    change = decompose(Trained({}, dict(model.state_dict())), vit)
    name = "blocks.5.mlp.fc1"
    delta = model.get_parameter(f"{name}.weight") - vit.model.get_parameter(f"{name}.weight")
    values = torch.linalg.svdvals(delta)
    for rank in (1, 4, 16):
        own = change.at(rank).modules[name]
        assert own.a.shape[0] == own.b.shape[1] == rank
        assert float((delta - own.b @ own.a).norm()) == pytest.approx(float(values[rank:].norm()), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 4, 8])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_change_of_low_rank_is_found(name: str, rank: int, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    model = tuned(backbone, rank)
    report = imported(model, tmp_path, backbone, pictures=folder_of(tmp_path / "shots"), max_loss=0.0)
    chosen = report.trials[-1]
    assert chosen.chosen
    assert chosen.rank <= rank
    assert report.difference < 1e-5
    assert {edit.kind for edit in report.manifest.edits} == {"lora"}
    if chosen.rank == rank:
        assert chosen.difference < 1e-4


@pytest.mark.parametrize("labelled", [False, True])
def test_the_loss_that_is_told_is_true(labelled: bool, vit: Backbone, tmp_path: Path) -> None:
    """Recomputed from the package on disk, over the same pictures."""
    model = tuned(vit, size=0.2)
    before = answers(model, vit)
    targets = before.argmax(1) if labelled else None
    if targets is not None:
        targets[::5] = (targets[::5] + 1) % 3
    shots = folder_of(tmp_path / "shots", targets=targets)
    report = imported(model, tmp_path, vit, pictures=shots, max_loss=0.05)
    after = package_logits(tmp_path / "out", vit, Golden(pictures(40, seed=3), before))
    chosen, metrics = report.trials[-1], report.manifest.metrics
    agreement = float((after.argmax(1) == before.argmax(1)).double().mean())
    assert chosen.agreement == metrics["agreement"] == pytest.approx(agreement)
    assert metrics["largest_difference"] == pytest.approx(
        float((after - before).abs().max() / before.abs().max().clamp(min=1)), abs=1e-5
    )
    if targets is not None:
        accuracy = float((after.argmax(1) == targets).double().mean())
        assert metrics["accuracy"] == pytest.approx(accuracy)
        assert metrics["original_accuracy"] == pytest.approx(0.8)
        assert metrics["loss"] == pytest.approx(max(0.8 - accuracy, 0))
    else:
        assert metrics["loss"] == pytest.approx(1 - agreement)
    assert metrics["loss"] <= 0.05
    assert all(trial.loss > 0.05 for trial in report.trials[:-1])
    assert [trial.rank for trial in report.trials] == [2**i for i in range(len(report.trials))]
    assert report.manifest.provenance.settings["rank"] == chosen.rank
    assert len(report.trials) > 1


def test_sizes_are_those_of_the_tensors(vit: Backbone, tmp_path: Path) -> None:
    report = imported(tuned(vit, 2), tmp_path, vit, pictures=folder_of(tmp_path / "shots"), max_loss=0.0)
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert report.trials[-1].size_bytes == sum(4 * t.numel() for name, t in tensors.items() if "lora_" in name)


@pytest.mark.parametrize(("rank", "told"), [(1, False), (None, True)])
def test_a_rank_that_saves_nothing_is_told(rank: int | None, told: bool, vit: Backbone, tmp_path: Path) -> None:
    model = tuned(vit, rank, size=0.5)
    report = imported(model, tmp_path, vit, pictures=folder_of(tmp_path / "shots"), max_loss=0.0)
    assert any("--as replaced is the better choice" in note for note in report.notes) == told


def test_trained_biases_are_carried(vit: Backbone, tmp_path: Path) -> None:
    model = tuned(vit, 2, names="all")
    report = imported(model, tmp_path, vit, pictures=folder_of(tmp_path / "shots"), max_loss=0.0)
    package = read_package(tmp_path / "out")
    assert package.lora is not None
    assert package.lora.bias == "lora_only"
    assert report.trials[-1].difference < 1e-4 or report.trials[-1].rank < 2


def test_norms_are_dropped_with_a_word_and_the_last_one_is_replaced(vit: Backbone, tmp_path: Path) -> None:
    model = tuned(vit, 2)
    for name in ("blocks.5.norm1.weight", "blocks.4.norm2.bias", "norm.weight"):
        model.get_parameter(name).data *= 1.01
    report = imported(model, tmp_path, vit, pictures=folder_of(tmp_path / "shots"), max_loss=0.2)
    kinds = {edit.segment: edit.kind for edit in report.manifest.edits}
    assert kinds["norm"] == "replace"
    assert kinds["blocks.5"] == "lora"
    assert any("2 tensors" in note for note in report.notes)
    assert report.manifest.provenance.settings["dropped_tensors"] == 2
    assert report.trials[-1].difference > 1e-5


def test_segments_whose_statistics_moved_are_replaced(tmp_path: Path) -> None:
    backbone = random_backbone("test_resnet")
    model = tuned(backbone, 1)
    last = backbone.segments[-1]
    moved = [n for n in model.state_dict() if last.owns_tensor(n) and n.endswith("running_mean")]
    for name in moved:
        model.get_buffer(name).add_(0.1)
    report = imported(model, tmp_path, backbone, pictures=folder_of(tmp_path / "shots"), max_loss=0.0)
    kinds = {edit.segment: edit.kind for edit in report.manifest.edits}
    assert kinds[last.name] == "replace"
    assert "lora" in kinds.values()


def test_nothing_for_lora_is_refused(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    model = merged_model(backbone, 3, seed=0)
    with pytest.raises(InvalidInputError, match="no weight changed") as caught:
        imported(model, tmp_path, backbone, pictures=folder_of(tmp_path / "shots", 2))
    assert "--as replaced" in caught.value.fix


def test_pictures_are_needed(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    with pytest.raises(InvalidInputError, match="chosen on pictures") as caught:
        imported(tuned(backbone), tmp_path, backbone)
    assert (caught.value.field, "--pictures" in caught.value.fix) == ("pictures", True)


def test_no_rank_is_good_enough() -> None:
    trials = [Trial(rank, 1, 0.5, None, 1.0, loss) for rank, loss in ((1, 0.5), (2, 0.25), (4, 0.3))]

    def tried() -> Iterator[Trial]:
        yield from trials

    seen: list[Trial] = []
    with pytest.raises(InvalidInputError, match=r"1 loses 0\.5000, 2 loses 0\.2500, 4 loses 0\.3000") as caught:
        choose(tried(), 0.1, seen.append)
    assert (caught.value.field, caught.value.value) == ("max-loss", "0.1")
    assert "--as replaced" in caught.value.fix
    assert seen == trials
    assert choose(tried(), 0.25, seen.append) == 2


@pytest.mark.parametrize(("folders", "message"), [(("x",), "no such label"), ((), "no pictures")])
def test_pictures_that_do_not_belong(folders: tuple[str, ...], message: str, vit: Backbone, tmp_path: Path) -> None:
    shots = tmp_path / "shots"
    shots.mkdir()
    for name in folders:
        folder_of(shots / name, 1)
    with pytest.raises(InvalidInputError, match=message) as caught:
        imported(tuned(vit), tmp_path, vit, pictures=shots)
    assert caught.value.field == "pictures"
    assert caught.value.fix
