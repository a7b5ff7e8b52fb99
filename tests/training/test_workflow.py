"""A folder becomes a package that learned, that the server answers with, and that PEFT loads."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from factories import random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.adapter import fit
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.backbone import fingerprint
from lensmount_adapters.package import content_hash, read_package
from lensmount_server.engine.plan import plan
from lensmount_server.engine.reference import ReferenceExecutor
from lensmount_training.data import read_folder
from lensmount_training.evaluate import score
from lensmount_training.progress import NoProgress, Progress
from lensmount_training.split import split_file
from lensmount_training.strategies import FeatureExtraction, Lora, Problem, Strategy, Trained
from lensmount_training.strategies.descent import Schedule
from lensmount_training.workflow import Run, train

FEATURES = FeatureExtraction(views=("identity",))
LORA = Lora(rank=4, alpha=8, views=("identity",), schedule=Schedule(epochs=4))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("test_vit")


@pytest.fixture(scope="module", params=["features", "lora"])
def run(
    request: pytest.FixtureRequest, digits: Path, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    strategy: Strategy = FEATURES if request.param == "features" else LORA
    return train(digits, "digit", strategy, backbone, tmp_path_factory.mktemp("run") / "digit")


def served(backbone: Backbone, run: Run) -> torch.Tensor:
    """What the server's executor says of the golden pictures."""
    package = read_package(run.out)
    adapter = fit(package, backbone)
    rows = torch.stack([backbone.preprocessing.prepare(pixels) for pixels in package.golden.pictures])
    (work,) = plan((place, adapter) for place in range(len(rows)))
    return ReferenceExecutor(backbone).run(work, rows)[0]


def test_it_learned(run: Run) -> None:
    assert run.test.accuracy > 0.8  # a third by guessing
    assert run.validation.pictures + run.test.pictures + run.train_pictures == 90
    assert run.test.pictures == 18
    assert run.manifest.metrics["test_accuracy"] == run.test.accuracy
    assert run.skipped == ()


def test_the_package_is_one_that_servers_take(run: Run, backbone: Backbone) -> None:
    package = read_package(run.out)
    assert package.content_hash == run.content_hash == content_hash(run.out)
    assert package.manifest == run.manifest
    assert package.manifest.labels == ["one", "seven", "three"]
    assert 1 <= len(package.golden.pictures) <= 4
    scale = max(float(package.golden.logits.abs().max()), 1.0)
    assert float((served(backbone, run) - package.golden.logits).abs().max()) <= 1e-5 * scale


def test_only_what_was_trained_is_saved(run: Run, backbone: Backbone) -> None:
    package = read_package(run.out)
    assert {tensor.dtype for tensor in load_file(run.out / "adapter_model.safetensors").values()} == {torch.float32}
    assert sum(tensor.numel() for tensor in package.tensors.values()) == run.trained_parameters
    assert run.trained_parameters < run.backbone_parameters / 2
    assert run.backbone_parameters == sum(parameter.numel() for parameter in backbone.model.parameters())


def test_peft_gives_the_same_logits(run: Run, backbone: Backbone) -> None:
    package = read_package(run.out)
    if run.manifest.strategy == "features":
        assert not (run.out / "adapter_config.json").exists()
        return
    base: Any = copy.deepcopy(backbone.model)
    base.reset_classifier(3)
    loaded = PeftModel.from_pretrained(base, str(run.out)).eval()
    rows = torch.stack([backbone.preprocessing.prepare(pixels) for pixels in package.golden.pictures])
    with torch.inference_mode():
        logits = loaded(backbone.preprocessing.normalize(rows))
    scale = max(float(package.golden.logits.abs().max()), 1.0)
    assert float((logits - package.golden.logits).abs().max()) <= 1e-4 * scale


def test_the_card_says_what_was_found(run: Run) -> None:
    card = (run.out / "README.md").read_text()
    assert card.startswith("# digit\n")
    assert f"| sealed test | 18 | {run.test.accuracy:.3f} |" in card
    assert "lensmount register PATH" in card
    for label in run.manifest.labels:
        assert f"| {label} |" in card


def test_provenance_is_enough_to_do_it_again(run: Run) -> None:
    provenance = run.manifest.provenance
    assert len(provenance.data_hash) == 64
    assert set(provenance.versions) == {"lensmount", "torch", "timm", "peft"}
    assert provenance.settings["views"] == "identity"
    assert split_file(run.out, provenance.data_hash, 0).is_file()


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_convolutional_backbones_with_batch_norm(name: str, digits: Path, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    before = fingerprint(backbone.model)
    run = train(
        digits, "digit", Lora(rank=4, views=("identity",), schedule=Schedule(epochs=1)), backbone, tmp_path / "d"
    )
    assert fingerprint(backbone.model) == before  # parameters and BatchNorm statistics, to the bit
    golden = read_package(run.out).golden.logits
    assert float((served(backbone, run) - golden).abs().max()) <= 1e-4 * max(float(golden.abs().max()), 1.0)
    assert not any("running" in name for name in read_package(run.out).tensors)


@pytest.mark.parametrize("strategy", [FEATURES, LORA])
def test_the_same_seed_gives_the_same_package(
    strategy: Strategy, digits: Path, backbone: Backbone, tmp_path: Path
) -> None:
    first, second = (train(digits, "digit", strategy, backbone, tmp_path / str(i) / "digit", 5) for i in range(2))
    for name in ("adapter_model.safetensors", "golden.safetensors", "README.md"):
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes(), name
    manifests = [json.loads((run.out / "task.json").read_text()) for run in (first, second)]
    for manifest in manifests:
        del manifest["provenance"]["created"]
    assert manifests[0] == manifests[1]


def test_another_seed_gives_another_package(digits: Path, backbone: Backbone, tmp_path: Path) -> None:
    first, second = (train(digits, "digit", FEATURES, backbone, tmp_path / str(seed), seed) for seed in (1, 2))
    name = "adapter_model.safetensors"
    assert (first.out / name).read_bytes() != (second.out / name).read_bytes()


class Watching:
    """Feature extraction that remembers what it was shown."""

    name = "watching"

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def train(self, problem: Problem, progress: Progress) -> Trained:
        self.problems.append(problem)
        return FEATURES.train(problem, progress)


def test_no_strategy_sees_a_picture_of_the_test_set(digits: Path, backbone: Backbone, tmp_path: Path) -> None:
    watching = Watching()
    run = train(digits, "digit", watching, backbone, tmp_path / "digit")
    (problem,) = watching.problems
    dataset = read_folder(digits, backbone.preprocessing, NoProgress())
    split = json.loads(split_file(run.out, dataset.hash, 0).read_text())
    shown = {row.numpy().tobytes() for part in (problem.train, problem.validation) for row in part.pixels}
    sealed = [picture for picture in dataset.pictures if picture.file in split["test"]]
    assert len(sealed) == 18
    assert not any(picture.pixels.numpy().tobytes() in shown for picture in sealed)
    assert len(shown) == 72


def test_golden_pictures_come_from_training(digits: Path, backbone: Backbone, tmp_path: Path) -> None:
    watching = Watching()
    run = train(digits, "digit", watching, backbone, tmp_path / "digit")
    trained_on = {row.numpy().tobytes() for row in watching.problems[0].train.pixels}
    for pixels in read_package(run.out).golden.pictures:
        assert backbone.preprocessing.prepare(pixels).numpy().tobytes() in trained_on


def test_a_loss_that_is_no_number_leaves_nothing(digits: Path, backbone: Backbone, tmp_path: Path) -> None:
    wild = Lora(views=("identity",), schedule=Schedule(epochs=3, learning_rate=1e30))
    with pytest.raises(InvalidInputError, match="no longer a finite number") as caught:
        train(digits, "digit", wild, backbone, tmp_path / "digit")
    assert caught.value.field == "learning_rate"
    assert "--learning-rate 1e+29" in caught.value.fix
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]  # the split alone


@pytest.mark.parametrize(
    ("strategy", "field"),
    [
        (Lora(last_segments=99), "last_segments"),
        (Lora(last_segments=0), "last_segments"),
        (Lora(rank=0), "rank"),
        (Lora(rank=10_000), "rank"),
        (Lora(views=("identity", "zoom")), "views"),
        (FeatureExtraction(views=("zoom",)), "views"),
    ],
)
def test_settings_that_can_not_work(
    strategy: Strategy, field: str, digits: Path, backbone: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        train(digits, "digit", strategy, backbone, tmp_path / "digit")
    assert caught.value.field == field
    assert caught.value.fix
    assert not (tmp_path / "digit").exists()


def test_a_place_that_is_taken_is_refused_before_anything_is_read(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "digit").mkdir()
    with pytest.raises(InvalidInputError, match="the folder exists"):
        train(tmp_path / "no such data", "digit", FEATURES, backbone, tmp_path / "digit")


def test_a_disk_that_fills_leaves_nothing(
    digits: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lensmount_adapters.package.write_golden", full)
    with pytest.raises(InvalidInputError, match="No space left") as caught:
        train(digits, "digit", FEATURES, backbone, tmp_path / "digit")
    assert caught.value.field == "out"
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_rare_classes_count_as_much_as_common_ones(digits: Path, backbone: Backbone, tmp_path: Path) -> None:
    uneven = shutil.copytree(digits, tmp_path / "uneven")
    for path in sorted((uneven / "three").iterdir())[8:]:
        path.unlink()
    watching = Watching()
    train(uneven, "digit", watching, backbone, tmp_path / "digit")
    problem = watching.problems[0]
    weights, counts = problem.class_weights, torch.bincount(problem.train.targets)
    assert (weights * counts).tolist() == pytest.approx([len(problem.train) / 3] * 3)


def test_figures_are_those_of_the_served_logits(run: Run, backbone: Backbone, digits: Path) -> None:
    """The sealed figures again, through the server's executor and the package alone."""
    dataset = read_folder(digits, backbone.preprocessing, NoProgress())
    split = json.loads(split_file(run.out, dataset.hash, 0).read_text())
    sealed = [picture for picture in dataset.pictures if picture.file in split["test"]]
    adapter = fit(read_package(run.out), backbone)
    (work,) = plan((place, adapter) for place in range(len(sealed)))
    (logits,) = ReferenceExecutor(backbone).run(work, torch.stack([picture.pixels for picture in sealed]))
    again = score(logits, torch.tensor([picture.label for picture in sealed]), dataset.labels)
    assert again.confusion == run.test.confusion
