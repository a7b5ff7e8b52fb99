"""A folder becomes a package that learned, that the server answers with, and that PEFT loads."""

from __future__ import annotations

import base64
import copy
import json
import resource
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
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
from lensmount_training import chooser, learning, menu, workflow
from lensmount_training.audit.domain import Distance
from lensmount_training.context import Context
from lensmount_training.data import Dataset
from lensmount_training.data.folder import list_folder
from lensmount_training.data.reading import read
from lensmount_training.evaluation import score
from lensmount_training.progress import NoProgress
from lensmount_training.recipe import Recipe, make_recipe
from lensmount_training.report import as_object
from lensmount_training.sealed import identity, openings
from lensmount_training.split import split_file
from lensmount_training.strategies import Lora, Problem, Strategy, Trained
from lensmount_training.workflow import Run, train

PLAIN = {"views": ("identity",), "audit": False}


def recipe(data: Path, strategy: str = "features", **choices: Any) -> Recipe:
    return make_recipe({"data": data, "task": "digit", "strategy": strategy, **PLAIN, **choices})


LORA: dict[str, Any] = {"strategy": "lora", "rank": 4, "epochs": 4}
# Random weights have more to learn than pretrained ones.
FINETUNE = {"strategy": "finetune", "last": 2, "epochs": 4, "learning_rate": 1e-2, "backbone_rate": 1e-3}


@pytest.fixture(autouse=True, scope="module")
def _few_steps() -> Iterator[None]:
    """Small sets get a hundred steps at least; here fewer do."""
    with pytest.MonkeyPatch.context() as patched:
        usual = menu._schedule
        patched.setattr(menu, "_schedule", lambda *own: replace(usual(*own), least_steps=25))
        yield


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("test_vit")


@pytest.fixture(scope="module", params=["features", "lora", "finetune"])
def run(
    request: pytest.FixtureRequest, digits: Path, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    choices = {"features": {}, "lora": LORA, "finetune": FINETUNE}[request.param]
    folder = tmp_path_factory.mktemp("run")
    return train(recipe(digits, **choices), folder / "digit", backbone=backbone, openings=folder / "openings")


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
    floats = {tensor.dtype for tensor in load_file(run.out / "adapter_model.safetensors").values()}
    assert floats == {torch.float32}
    assert sum(tensor.numel() for tensor in package.tensors.values()) == run.trained_parameters
    assert run.trained_parameters < run.backbone_parameters
    assert run.backbone_parameters == sum(parameter.numel() for parameter in backbone.model.parameters())


def test_peft_gives_the_same_logits(run: Run, backbone: Backbone) -> None:
    package = read_package(run.out)
    if run.manifest.strategy != "lora":
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
    assert "opened once" in card
    assert "lensmount register PATH" in card
    for label in run.manifest.labels:
        assert f"| {label} |" in card


def test_provenance_is_enough_to_do_it_again(run: Run, digits: Path, backbone: Backbone, tmp_path: Path) -> None:
    provenance = run.manifest.provenance
    assert len(provenance.data_hash) == 64
    assert set(provenance.versions) == {"lensmount", "torch", "timm", "peft"}
    assert split_file(run.out, provenance.data_hash, 0).is_file()
    again = make_recipe(yaml.safe_load(str(provenance.settings["recipe"])))
    assert again.data == digits
    second = train(again, tmp_path / "digit", backbone=backbone)
    name = "adapter_model.safetensors"
    assert (second.out / name).read_bytes() == (run.out / name).read_bytes()


def test_the_run_folder_holds_the_record(run: Run) -> None:
    folder = run.out.with_name("digit.run")
    assert json.loads((folder / "state.json").read_text())["state"] == "done"
    assert run.report == folder / "report.html"
    assert "<script" not in run.report.read_text()
    assert "How deep it is edited" not in run.report.read_text()
    assert as_object(run)["depth"] is None
    assert any((folder / "tensorboard").iterdir())
    assert not (folder / "stages").exists()


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_convolutional_backbones_with_batch_norm(name: str, digits: Path, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    before = fingerprint(backbone.model)
    run = train(recipe(digits, "lora", rank=4, epochs=1), tmp_path / "digit", backbone=backbone)
    assert fingerprint(backbone.model) == before  # parameters and BatchNorm statistics, to the bit
    golden = read_package(run.out).golden.logits
    assert float((served(backbone, run) - golden).abs().max()) <= 1e-4 * max(float(golden.abs().max()), 1.0)
    assert not any("running" in name for name in read_package(run.out).tensors)


@pytest.mark.parametrize("choices", [{}, LORA])
def test_the_same_seed_gives_the_same_package(
    choices: dict[str, Any], digits: Path, backbone: Backbone, tmp_path: Path
) -> None:
    first, second = (
        train(recipe(digits, seed=5, **choices), tmp_path / str(i) / "digit", backbone=backbone) for i in range(2)
    )
    for name in ("adapter_model.safetensors", "golden.safetensors", "README.md"):
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes(), name
    manifests = [json.loads((run.out / "task.json").read_text()) for run in (first, second)]
    for manifest in manifests:
        del manifest["provenance"]["created"]
    assert manifests[0] == manifests[1]


def test_another_seed_gives_another_package(digits: Path, backbone: Backbone, tmp_path: Path) -> None:
    first, second = (train(recipe(digits, seed=seed), tmp_path / str(seed), backbone=backbone) for seed in (1, 2))
    name = "adapter_model.safetensors"
    assert (first.out / name).read_bytes() != (second.out / name).read_bytes()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Problem]:
    """What strategies were shown."""
    problems: list[Problem] = []
    stage = learning._stage

    def watched(strategy: Strategy, problem: Problem, context: Context) -> Any:
        problems.append(problem)
        return stage(strategy, problem, context)

    monkeypatch.setattr(learning, "_stage", watched)
    return problems


def data_of(digits: Path, backbone: Backbone, cache: Path) -> Dataset:
    return read(list_folder(digits), backbone.preprocessing, cache, NoProgress())


def test_no_strategy_sees_a_picture_of_the_test_set(
    digits: Path, backbone: Backbone, tmp_path: Path, shown: list[Problem]
) -> None:
    run = train(recipe(digits), tmp_path / "digit", backbone=backbone)
    (problem,) = shown
    dataset = data_of(digits, backbone, tmp_path / "cache")
    split = json.loads(split_file(run.out, dataset.hash, 0).read_text())
    seen = {row.numpy().tobytes() for part in (problem.train, problem.validation) for row in part.pixels[:]}
    sealed = dataset.take(split["test"]).pixels[:]
    assert len(sealed) == 18
    assert not any(row.numpy().tobytes() in seen for row in sealed)
    assert len(seen) == 72


def test_every_opening_of_the_test_set_is_in_the_package(digits: Path, backbone: Backbone, tmp_path: Path) -> None:
    """Wherever the runs write: they are of the same pictures on the same machine."""
    runs = [train(recipe(digits, views=views), tmp_path / views[-1] / "digit", backbone=backbone) for views in VIEWS]
    assert [run.openings for run in runs] == [1, 2]
    assert [run.manifest.metrics["test_openings"] for run in runs] == [1, 2]
    assert [len(openings(record)) for record in tmp_path.glob("*/*.opened.jsonl")] == [1, 1]
    assert "this was opening 2" in (runs[1].out / "README.md").read_text()


def test_what_was_trained_is_known_again_when_it_is_evaluated(run: Run) -> None:
    """Its numbers are the same before it is packed and when the package is read."""
    package = read_package(run.out)
    (record,) = run.out.parent.glob("*.opened.jsonl")
    (opening,) = openings(record)
    assert opening["content"] == identity(package.tensors, package.manifest.temperature, package.manifest.thresholds)


def test_a_folder_where_no_opening_can_be_kept_is_told_before_the_training(
    digits: Path, backbone: Backbone, tmp_path: Path, shown: list[Problem]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError, match="can not be recorded") as caught:
        train(recipe(digits), tmp_path / "digit", backbone=backbone, openings=tmp_path / "file" / "openings")
    assert caught.value.field == "split"
    assert not shown


VIEWS = (("identity",), ("identity", "hflip"))


def test_golden_pictures_come_from_training(
    digits: Path, backbone: Backbone, tmp_path: Path, shown: list[Problem]
) -> None:
    run = train(recipe(digits), tmp_path / "digit", backbone=backbone)
    trained_on = {row.numpy().tobytes() for row in shown[0].train.pixels[:]}
    for pixels in read_package(run.out).golden.pictures:
        assert backbone.preprocessing.prepare(pixels).numpy().tobytes() in trained_on


def left(folder: Path) -> list[str]:
    """What an error leaves: the split, and the run's record; never the package."""
    return sorted(path.name.split("-")[0] for path in folder.iterdir())


def test_a_loss_that_is_no_number_leaves_nothing(digits: Path, backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no longer a finite number") as caught:
        train(recipe(digits, "lora", rank=4, epochs=3, learning_rate=1e30), tmp_path / "digit", backbone=backbone)
    assert caught.value.field == "learning_rate"
    assert caught.value.fix == "leave --learning-rate out: the strategy's own, 0.001 to 0.003, suits most data"
    assert left(tmp_path) == ["digit.run", "split"]


@pytest.mark.parametrize(
    ("choices", "field"),
    [
        ({"strategy": "lora", "last": 99}, "last_segments"),
        ({"strategy": "lora", "rank": 10_000}, "rank"),
        ({"strategy": "lora", "views": ("identity", "zoom")}, "views"),
        ({"views": ("zoom",)}, "views"),
        ({"require_recall": {"eight": 0.9}}, "require_recall"),
    ],
)
def test_settings_that_can_not_work(
    choices: dict[str, Any], field: str, digits: Path, backbone: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        train(recipe(digits, **choices), tmp_path / "digit", backbone=backbone)
    assert caught.value.field == field
    assert caught.value.fix
    assert not (tmp_path / "digit").exists()


def test_a_place_that_is_taken_is_refused_before_anything_is_read(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "digit").mkdir()
    with pytest.raises(InvalidInputError, match="the folder exists"):
        train(recipe(tmp_path / "no such data"), tmp_path / "digit", backbone=backbone)


def test_a_disk_that_fills_leaves_nothing_and_the_same_command_goes_on(
    digits: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("lensmount_adapters.package.write_golden", full)
        with pytest.raises(InvalidInputError, match="No space left") as caught:
            train(recipe(digits), tmp_path / "digit", backbone=backbone)
    assert caught.value.field == "out"
    assert left(tmp_path) == ["digit.run", "split", "split"]
    run = train(recipe(digits), tmp_path / "digit", backbone=backbone)
    assert run.openings == 1  # the same adapter, looked at again


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is full")
@pytest.mark.parametrize("place", [None, Path("mine")])
def test_a_disk_that_fills_behind_the_package_and_the_same_command_goes_on(
    place: Path | None, digits: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = place or Path("runs/digit")
    folder = out.with_name(f"{out.name}.run")
    with pytest.raises(InvalidInputError, match="No space left") as caught:
        train(recipe(digits), place, Filling(folder / "report.html"), backbone=backbone)
    assert "give the same command again: it goes on from here" in caught.value.fix
    assert not (folder / "report.html").exists()
    before = content_hash(out)
    with pytest.raises(InvalidInputError, match="the folder exists"):  # the control: another run does not
        train(recipe(digits, seed=1), out, backbone=backbone)
    run = train(recipe(digits), place, backbone=backbone)
    assert (run.out, run.content_hash, run.openings) == (out, before, 1)
    assert run.report == folder / "report.html"
    assert run.content_hash in run.report.read_text()
    assert json.loads((folder / "state.json").read_text())["state"] == "done"
    assert not (folder / "stages").exists()
    with pytest.raises(InvalidInputError, match="the folder exists"):
        train(recipe(digits), out, backbone=backbone)


def test_a_package_of_another_result_is_not_taken_for_ones_own(
    digits: Path, backbone: Backbone, tmp_path: Path
) -> None:
    run = train(recipe(digits), tmp_path / "digit", backbone=backbone)
    state = tmp_path / "digit.run" / "state.json"
    state.write_text(state.read_text().replace("done", "running"))
    task = json.loads((run.out / "task.json").read_text())
    task["metrics"]["accuracy"] -= 0.01
    (run.out / "task.json").write_text(json.dumps(task))
    with pytest.raises(InvalidInputError, match="holds another result"):
        train(recipe(digits), tmp_path / "digit", backbone=backbone)


def test_a_requirement_that_does_not_hold_is_told_and_stands_in_the_package(
    digits: Path, backbone: Backbone, tmp_path: Path
) -> None:
    run = train(recipe(digits, require_recall={"three": 1.0}), tmp_path / "digit", backbone=backbone)
    assert run.manifest.requirements == {"recall.three": 1.0}
    holds = run.manifest.metrics["recall.three"] >= 1
    assert run.holds == holds
    assert holds != any("a server will refuse it" in note for note in run.notes)


def test_rare_classes_count_as_much_as_common_ones(
    digits: Path, backbone: Backbone, tmp_path: Path, shown: list[Problem]
) -> None:
    uneven = shutil.copytree(digits, tmp_path / "uneven")
    for path in sorted((uneven / "three").iterdir())[8:]:
        path.unlink()
    train(recipe(uneven), tmp_path / "digit", backbone=backbone)
    problem = shown[0]
    weights, counts = problem.class_weights, torch.bincount(problem.train.targets)
    assert (weights * counts).tolist() == pytest.approx([len(problem.train) / 3] * 3)


def test_figures_are_those_of_the_served_logits(run: Run, backbone: Backbone, digits: Path, tmp_path: Path) -> None:
    """The sealed figures again, through the server's executor and the package alone."""
    dataset = data_of(digits, backbone, tmp_path)
    split = json.loads(split_file(run.out, dataset.hash, 0).read_text())
    sealed = dataset.take(split["test"])
    adapter = fit(read_package(run.out), backbone)
    (work,) = plan((place, adapter) for place in range(len(sealed)))
    (logits,) = ReferenceExecutor(backbone).run(work, sealed.pixels[:])
    assert score(logits, sealed.targets, dataset.labels).confusion == run.test.confusion


def test_depth_by_measurement(digits: Path, backbone: Backbone, tmp_path: Path) -> None:
    run = train(recipe(digits, "lora", rank=4, epochs=1, last="auto"), tmp_path / "digit", backbone=backbone)
    depth = run.choice.depth
    assert depth is not None
    lasts = {own.last for own in depth.depths}
    assert 0 in lasts
    assert len(lasts) > 3
    assert len(run.manifest.edits) <= depth.best.last
    assert (run.manifest.strategy == "features") == (depth.best.last == 0)
    picture = (run.out.with_name("digit.run") / "depth.png").read_bytes()
    assert len(picture) > 10_000
    page = run.report.read_text()
    assert "How deep it is edited" in page
    assert page.count("<td>taken</td>") == 1
    assert base64.b64encode(picture).decode() in page
    told = json.loads(json.dumps(as_object(run)))["depth"]
    assert [own["segments"] for own in told if own["taken"]] == [depth.best.last]
    assert [own["segments"] for own in told] == [own.last for own in depth.depths]
    assert [own["ms"] for own in told] == sorted(own["ms"] for own in told)
    assert set(told[0]) == {"segments", "accuracy", "error", "ms", "parameters", "taken"}


@pytest.mark.parametrize("smallest", [1, 10_000])
def test_auto_tries_what_the_data_call_for_and_keeps_what_is_worth_it(
    smallest: int, digits: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chooser, "FEW", smallest)
    monkeypatch.setattr(workflow, "domain_distance", lambda *_: Distance(0.1, "near", ""))
    monkeypatch.setattr(learning, "leaves_room", lambda *_: True)
    run = train(recipe(digits, "auto", rank=4, epochs=1, last=2), tmp_path / "digit", backbone=backbone)
    tried = [own.learned.name for own in run.choice.candidates]
    assert tried == (["features", "finetune", "lora"] if smallest == 1 else ["features"])
    assert ("neither unfreezing nor LoRA is tried" in run.choice.reason) == (smallest > 1)
    best = max(run.choice.candidates[1:], key=lambda own: own.gain.difference, default=None)  # type: ignore[union-attr]
    kept = best is not None and best.gain is not None and best.gain.kept
    assert run.manifest.strategy == (best.learned.name if best and kept else "features")


def test_auto_edits_as_deep_as_measurement_says_and_trains_no_depth_twice(
    digits: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    usual = Lora.train

    def counted(strategy: Lora, problem: Problem, context: Context) -> Trained:
        trained.append(strategy.last_segments or 0)
        return usual(strategy, problem, context)

    monkeypatch.setattr(Lora, "train", counted)
    monkeypatch.setattr(workflow, "domain_distance", lambda *_: Distance(0.9, "far", ""))
    quick = train(recipe(digits, "auto", epochs=4), tmp_path / "good", backbone=backbone)
    assert [own.learned.name for own in quick.choice.candidates] == ["features"]  # the digits leave no room
    assert "nothing could be shown to be better" in quick.choice.reason
    assert not trained
    monkeypatch.setattr(learning, "leaves_room", lambda *_: True)
    run = train(recipe(digits, "auto", epochs=4), tmp_path / "digit", backbone=backbone)
    depth = run.choice.depth
    assert depth is not None
    assert sorted(trained) == sorted(own.last for own in depth.depths if own.last)
    edited = {own.learned.name: len(own.learned.trained.edits) for own in run.choice.candidates}
    assert edited.get("lora", 0) == depth.best.last
    one = train(recipe(digits, "auto", epochs=4, last=2), tmp_path / "shallow", backbone=backbone)
    assert one.choice.depth is None


def test_a_disk_that_is_full_from_the_start_is_one_sentence(digits: Path, backbone: Backbone, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(InvalidInputError, match="the file can not be written: File too large") as caught:
            train(recipe(digits), tmp_path / "digit", backbone=backbone)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "it goes on from here" in caught.value.fix
    assert not (tmp_path / "digit").exists()
    assert [path.name for path in (tmp_path / "digit.run").iterdir()] == [".lock"]


class Filling(NoProgress):
    """A disk that is full where one file is written, from the time at which the run says or shows its first word."""

    def __init__(self, file: Path) -> None:
        self.partial = file.with_name(f".{file.name}.partial")
        self.filled = False

    def say(self, text: str) -> None:  # noqa: ARG002 the protocol has it
        if not self.filled:
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self.partial.symlink_to("/dev/full")
            self.filled = True

    def bar(self, label: str, total: int) -> NoProgress:
        self.say(label)
        return super().bar(label, total)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is full")
@pytest.mark.parametrize(
    ("file", "what"),
    [("lora/rank-4/training.pt", "the checkpoint"), ("lora/learned.pt", "the stage lora")],
)
def test_a_disk_that_fills_while_it_learns_is_one_sentence_and_the_same_command_goes_on(
    file: str, what: str, digits: Path, backbone: Backbone, tmp_path: Path
) -> None:
    choices, stages = recipe(digits, **LORA), tmp_path / "digit.run" / "stages"
    filling = Filling(stages / file)
    with pytest.raises(InvalidInputError, match=f"{what} can not be written: No space left") as caught:
        train(choices, tmp_path / "digit", filling, backbone=backbone)
    assert filling.filled
    assert (caught.value.field, caught.value.value) == ("out", str(stages / file))
    assert "it goes on from here" in caught.value.fix
    assert not (stages / file).exists()
    assert (stages / "features" / "learned.pt").is_file()
    run = train(choices, tmp_path / "digit", backbone=backbone)
    undisturbed = train(choices, tmp_path / "undisturbed", backbone=backbone)
    name = "adapter_model.safetensors"
    assert (run.out / name).read_bytes() == (undisturbed.out / name).read_bytes()
