"""`lensmount evaluate`: a folder of pictures in; a verdict, a report, a document and an exit code out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file

from factories import fitted, head_package, lora_package, random_backbone
from lensmount.errors import IncompatibleError, InvalidInputError
from lensmount_adapters.answering import answer_each
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.golden import Golden
from lensmount_adapters.manifest import Manifest
from lensmount_adapters.package import read_package, write_package
from lensmount_adapters.pictures import decode_picture
from lensmount_training.context import Context
from lensmount_training.data.folder import list_folder
from lensmount_training.data.reading import read
from lensmount_training.evaluation.command import document, evaluate
from lensmount_training.evaluation.listing import AS_TRAINED, Reading
from lensmount_training.evaluation.parts import PartName
from lensmount_training.evaluation.report import render
from lensmount_training.evaluation.running import Request, judge
from lensmount_training.progress import NoProgress
from lensmount_training.recipe import make_recipe
from lensmount_training.sealed import identity, openings
from lensmount_training.split import load_split, split_file, split_once

Run = Callable[..., Result]


@dataclass(frozen=True, eq=False)
class Bench:
    """A small backbone, its weights as a file, pictures in folders by what the package says of most of them."""

    backbone: Backbone
    weights: Path
    package: Path
    data: Path


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    backbone = random_backbone()
    save_file(backbone.model.state_dict(), folder / "weights.safetensors")
    lora_package(folder, backbone, task="t", labels=2, seed=1)
    package = folder / "package"
    write_pictures(folder / "data", backbone, package)
    return Bench(backbone, folder / "weights.safetensors", package, folder / "data")


def write_pictures(folder: Path, backbone: Backbone, package: Path) -> None:
    """Pictures in the folder of what they are called, of each label one in ten in the other's."""
    adapter, random = fitted(package, backbone), np.random.default_rng(0)
    counts = dict.fromkeys(adapter.manifest.labels, 0)
    for number in range(400):
        if min(counts.values()) >= 20:
            break
        low, high = np.sort(random.integers(0, 256, (2, 3)), axis=0)
        pixels = random.integers(low, high + 1, (16, 16, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        called = adapter.manifest.labels[int(answer_each(adapter, backbone, [pixels]).argmax())]
        if counts[called] < 20:
            other = next(label for label in counts if label != called)
            target = folder / (other if counts[called] in (3, 11) else called)
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(target / f"{number:03}.png")
            counts[called] += 1
    assert min(counts.values()) == 20


@pytest.fixture
def run(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _: tmp_path)

    def invoke(*arguments: object, out: Path = tmp_path / "out") -> Result:
        given = [str(bench.package), str(bench.data), "--weights", str(bench.weights), "--out", str(out)]
        return CliRunner().invoke(evaluate, [*given, *map(str, arguments)])

    return invoke


def test_a_verdict_a_report_and_a_document(run: Run, tmp_path: Path) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert "36 of 40 pictures are judged rightly: 90.0%" in result.stdout
    assert f"Report: {tmp_path / 'out' / 'report.html'}" in result.stdout
    assert "36 of 40 pictures" in (tmp_path / "out" / "report.html").read_text()
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert told["metrics"]["accuracy"] == pytest.approx(0.9)
    assert told["metrics"]["recall.t-0"] == pytest.approx(0.9)
    assert told["scores"]["confusion"] == [[18, 2], [2, 18]]
    assert told["holds"] is True
    assert sum(not own["right"] for own in told["worst"]) == 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.json", "report.html"]


def test_a_requirement_that_is_not_reached_is_exit_code_1(run: Run) -> None:
    result = run("--require-recall", "t-0=0.95", "--require-recall", "t-1=0.9")
    assert result.exit_code == 1
    assert "recall.t-0: 0.900 of 0.95, NOT reached" in result.stdout
    assert "recall.t-1: 0.900 of 0.9, reached" in result.stdout
    assert run("--require-recall", "t-0=0.9").exit_code == 0


def test_the_document_alone_for_machines(run: Run) -> None:
    result = run("--require-recall", "t-0=0.95", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["report"].endswith("report.html")
    assert [(own["metric"], own["holds"]) for own in told["requirements"]] == [("recall.t-0", False)]
    assert told["verdict"]["headline"] == "1 requirement not reached"


def test_against_another_package(run: Run, bench: Bench, tmp_path: Path) -> None:
    lora_package(tmp_path, bench.backbone, task="t", labels=2, seed=1)
    result = run("--against", tmp_path / "package", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["comparison"]["only_first"] == 0
    head_package(tmp_path / "other", bench.backbone, task="t", labels=2, seed=3)
    told = json.loads(run("--against", tmp_path / "other", "--json").stdout)["comparison"]
    assert (told["first"], told["second"]) == ("package", "other")
    assert told["only_first"] > told["only_second"]
    assert "package is better" in told["words"]
    head_package(tmp_path / "three", bench.backbone, task="t", labels=3)
    failed = run("--against", tmp_path / "three")
    assert isinstance(failed.exception, InvalidInputError)
    assert failed.exception.field == "against"


def test_labels_that_the_package_does_not_know(bench: Bench, tmp_path: Path) -> None:
    for label in ("t-0", "dent", "hole"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number, path in enumerate(sorted((bench.data / "t-0").iterdir())[:5]):
            pixels = np.array(Image.open(path)) ^ len(label)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{label}{number}.png")
    with pytest.raises(InvalidInputError, match="labels that the package does not know") as caught:
        judge(Request(bench.package, tmp_path / "data", bench.weights), Context(cache=tmp_path / "cache"))
    assert (caught.value.field, caught.value.value) == ("data", "dent, hole")
    assert "t-0, t-1" in caught.value.fix


def test_labels_are_matched_by_name_not_by_place(bench: Bench, tmp_path: Path) -> None:
    """The package has three labels in an order that is not the alphabet's; the data shows two of them."""
    package = with_labels(bench, tmp_path / "package", ["t-1", "never", "t-0"])
    context = Context(cache=tmp_path / "cache")
    found = judge(Request(package, bench.data, bench.weights), context).report.evaluation
    plain = judge(Request(bench.package, bench.data, bench.weights), context).report.evaluation
    assert found.scores.confusion == ((18, 0, 2), (0, 0, 0), (2, 0, 18))
    assert found.scores.accuracy == plain.scores.accuracy
    assert [own.support for own in found.scores.classes] == [20, 0, 20]


def with_labels(bench: Bench, folder: Path, labels: list[str], **changes: object) -> Path:
    """The bench's package with its two labels at other places, and others that it never calls."""
    package = read_package(bench.package)
    classifier = bench.backbone.classifier
    weight, bias = (package.tensors[f"{classifier}.{name}"] for name in ("weight", "bias"))
    places = [package.manifest.labels.index(label) if label in package.manifest.labels else None for label in labels]
    rows = torch.stack([torch.zeros(weight.shape[1]) if place is None else weight[place] for place in places])
    offsets = torch.tensor([-100.0 if place is None else float(bias[place]) for place in places])
    tensors = {**package.tensors, f"{classifier}.weight": rows, f"{classifier}.bias": offsets}
    described = Manifest(**{**package.manifest.model_dump(), "labels": labels, **changes})
    golden = Golden(package.golden.pictures, torch.zeros(len(package.golden.pictures), len(labels)))
    config = json.loads((bench.package / "adapter_config.json").read_text())
    write_package(folder, described, tensors, golden, "", config)
    return folder


def test_thresholds_and_requirements_of_the_package_hold_here(bench: Bench, tmp_path: Path) -> None:
    labels = ["t-0", "t-1"]
    eager = with_labels(bench, tmp_path / "eager", labels, thresholds=[0.0, 1.0], requirements={"recall.t-0": 1.0})
    found = judge(Request(eager, bench.data, bench.weights), Context(cache=tmp_path / "cache")).report.evaluation
    assert found.scores.classes[0].recall == 1
    assert found.scores.accuracy < 0.9
    assert found.holds
    asked = Request(eager, bench.data, bench.weights, required=("t-1=0.9",))
    assert not judge(asked, Context(cache=tmp_path / "cache")).report.evaluation.holds


def test_a_multi_label_package_judges_pictures_of_one_label_each(bench: Bench, tmp_path: Path) -> None:
    package = with_labels(bench, tmp_path / "multi", ["t-0", "t-1"], kind="multi_label")
    found = judge(Request(package, bench.data, bench.weights), Context(cache=tmp_path / "cache")).report.evaluation
    assert found.kind == "multi_label"
    assert found.scores.confusion == ()
    assert [own.support for own in found.scores.classes] == [20, 20]


def table_of(bench: Bench, folder: Path, counts: dict[str, int]) -> Path:
    """A table of so many pictures of the bench's labels."""
    folder.mkdir()
    lines = ["file,label"]
    for label, count in counts.items():
        for path in sorted((bench.data / label).iterdir())[:count]:
            shutil.copy(path, folder / path.name)
            lines.append(f"{path.name},{label}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def with_recipe(bench: Bench, folder: Path, **choices: object) -> Path:
    """The bench's package, as if it had been trained by such a recipe."""
    recipe = make_recipe({"data": "parts", "task": "t", **choices}).as_yaml()
    provenance = read_package(bench.package).manifest.provenance
    changed = provenance.model_copy(update={"settings": {"recipe": recipe}}).model_dump()
    return with_labels(bench, folder, ["t-0", "t-1"], provenance=changed)


@pytest.mark.parametrize(
    "choices", [{"format": "imagefolder"}, {"format": "coco"}, {"group_by": "(day-[0-9])"}, {"format": "table"}, {}]
)
def test_data_in_another_form_than_it_was_trained_on(bench: Bench, tmp_path: Path, choices: dict[str, str]) -> None:
    package = with_recipe(bench, tmp_path / "trained", **choices)
    for data in (table_of(bench, tmp_path / "table", {"t-0": 6, "t-1": 6}), bench.data):
        found = judge(Request(package, data, bench.weights), Context(cache=tmp_path / "cache")).report.evaluation
        assert found.scores.pictures == (12 if data != bench.data else 40)


def test_what_is_asked_for_wins_and_must_work(bench: Bench, tmp_path: Path) -> None:
    package = with_recipe(bench, tmp_path / "trained", format="imagefolder", group_by="folder")
    data = table_of(bench, tmp_path / "table", {"t-0": 6, "t-1": 6})
    context = Context(cache=tmp_path / "cache")

    def judged(reading: Reading) -> int:
        report = judge(Request(package, data, bench.weights, reading=reading), context).report
        return report.evaluation.scores.pictures

    assert judged(Reading(format="table", group_by="none", every=2, margin=0.1)) == 12
    for reading, field in ((Reading(format="coco"), "data"), (Reading(group_by="(day-[0-9])"), "group_by")):
        with pytest.raises(InvalidInputError) as caught:
            judged(reading)
        assert caught.value.field == field


def test_the_command_takes_how_data_are_read(run: Run) -> None:
    words = ("--format", "imagefolder", "--group-by", "folder", "--every", "2", "--margin", "0.1", "--json")
    assert json.loads(run(*words).stdout)["metrics"]["pictures"] == 40
    failed = run("--format", "coco")
    assert isinstance(failed.exception, InvalidInputError)
    assert failed.exception.field == "data"


@pytest.mark.parametrize("counts", [{"t-0": 3, "t-1": 20}, {"t-1": 4}, {"t-0": 1}])
def test_a_few_pictures_of_the_field_are_enough(bench: Bench, tmp_path: Path, counts: dict[str, int]) -> None:
    data = table_of(bench, tmp_path / "table", counts)
    judged = judge(Request(bench.package, data, bench.weights), Context(cache=tmp_path / "cache"))
    found = judged.report.evaluation
    assert {own.label: own.support for own in found.scores.classes} == {"t-0": 0, "t-1": 0, **counts}
    json.loads(json.dumps(document(judged), allow_nan=False))
    assert f"{sum(counts.values())} picture" in render(judged.report)


def test_no_picture_is_too_few(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "data" / "t-0").mkdir(parents=True)
    with pytest.raises(InvalidInputError, match="no pictures"):
        judge(Request(bench.package, tmp_path / "data", bench.weights), Context(cache=tmp_path / "cache"))


def a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "out"


def a_folder_named_as_the_report(folder: Path) -> Path:
    (folder / "out" / "report.html").mkdir(parents=True)
    return folder / "out"


@pytest.mark.parametrize("make", [a_file, a_folder_named_as_the_report])
def test_a_place_that_can_not_be_written_is_told_before_the_seal_is_broken(
    bench: Bench, run: Run, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = split_of(bench, tmp_path)
    failed = run("--part", "test", "--split", path, out=make(tmp_path))
    assert isinstance(failed.exception, InvalidInputError)
    assert failed.exception.field == "out"
    assert not path.with_suffix(".opened.jsonl").exists()
    assert run("--part", "test", "--split", path, out=tmp_path / "new" / "out").exit_code == 0
    assert path.with_suffix(".opened.jsonl").exists()


def test_other_weights_are_refused(bench: Bench, tmp_path: Path) -> None:
    other = random_backbone(seed=5)
    save_file(other.model.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(IncompatibleError) as caught:
        judge(Request(bench.package, bench.data, tmp_path / "other.safetensors"), Context(cache=tmp_path / "cache"))
    assert caught.value.field == "task.json: backbone.fingerprint"


def split_of(bench: Bench, folder: Path) -> Path:
    """The file of a split of the bench's pictures."""
    dataset = read(list_folder(bench.data), bench.backbone.preprocessing, folder / "cache", NoProgress())
    split_once(dataset, 0, folder / "package")
    return split_file(folder / "package", dataset.hash, 0)


def test_a_test_set_is_opened_on_the_record(bench: Bench, run: Run, tmp_path: Path) -> None:
    path = split_of(bench, tmp_path)
    told = [json.loads(run("--part", "test", "--split", path, "--json").stdout) for _ in range(2)]
    assert [own["part"] for own in told] == ["The sealed test set; it was opened once so far."] * 2  # the same package
    assert told[0]["metrics"]["pictures"] == 8
    (opening,) = openings(path.with_suffix(".opened.jsonl"))
    assert opening["purpose"] == "evaluate package"
    package = read_package(bench.package)
    assert opening["content"] == identity(package.tensors, package.manifest.temperature, package.manifest.thresholds)


def test_all_the_pictures_are_an_opening_where_the_split_is_known(bench: Bench, run: Run, tmp_path: Path) -> None:
    path = split_of(bench, tmp_path)
    unknown = run()
    assert "sealed" not in unknown.stderr
    lora_package(tmp_path, bench.backbone, task="t", labels=2, seed=1)  # the same numbers, beside the split
    for numbers in (("--split", path), ("--split", path, "--against", tmp_path / "package")):
        known = run(*numbers, "--json")
        assert "on record as an opening" in " ".join(known.stderr.split())
        told = json.loads(known.stdout)
        assert "with the sealed test set, which was opened once so far" in told["part"]
        assert told["metrics"]["pictures"] == 40
    assert len(openings(path.with_suffix(".opened.jsonl"))) == 1
    head_package(tmp_path / "other", bench.backbone, task="t", labels=2, seed=3)
    assert run("--split", path, "--against", tmp_path / "other").exit_code == 0
    purposes = [own["purpose"] for own in openings(path.with_suffix(".opened.jsonl"))]
    assert purposes == ["evaluate package", "evaluate other"]  # who is compared with it has seen them too


def test_the_split_beside_the_package_is_found(bench: Bench, run: Run, tmp_path: Path) -> None:
    path = split_of(bench, tmp_path)
    lora_package(tmp_path, bench.backbone, task="t", labels=2, seed=1)
    request = Request(tmp_path / "package", bench.data, bench.weights)
    assert "was opened once so far" in judge(request, Context(cache=tmp_path / "cache")).report.part
    assert path.with_suffix(".opened.jsonl").is_file()


def test_the_test_set_is_known_among_more_pictures_and_in_other_groups(bench: Bench, tmp_path: Path) -> None:
    path = split_of(bench, tmp_path)
    split = load_split(path)
    provenance = read_package(bench.package).manifest.provenance.model_copy(update={"data_hash": split.data_hash})
    package = with_labels(bench, tmp_path / "package", ["t-0", "t-1"], provenance=provenance.model_dump())
    data = tmp_path / "more"
    shutil.copytree(bench.data, data)
    Image.new("RGB", (16, 16), "red").save(data / "t-0" / "new.png")
    context = Context(cache=tmp_path / "cache")

    def part_of(name: PartName = "all", reading: Reading = AS_TRAINED) -> str:
        return judge(Request(package, data, bench.weights, part=name, reading=reading), context).report.part

    for reading in (AS_TRAINED, Reading(group_by="folder")):
        assert "with the sealed test set, which was opened once so far" in part_of(reading=reading)
    assert part_of("test") == "The sealed test set; it was opened once so far."
    with pytest.raises(InvalidInputError, match="no split of this data"):
        part_of("validation")
    (data / split.test[0]).unlink()
    assert "sealed" not in part_of()
    assert len(openings(path.with_suffix(".opened.jsonl"))) == 1


def test_validation_pictures_are_no_opening(bench: Bench, run: Run, tmp_path: Path) -> None:
    path = split_of(bench, tmp_path)
    told = json.loads(run("--part", "validation", "--split", path, "--json").stdout)
    assert told["metrics"]["pictures"] == 4
    assert not path.with_suffix(".opened.jsonl").exists()


def test_a_part_that_nobody_knows_is_refused(run: Run) -> None:
    failed = run("--part", "validation")
    assert isinstance(failed.exception, InvalidInputError)
    assert (failed.exception.field, failed.exception.value) == ("part", "validation")


def test_logits_are_those_of_a_server(bench: Bench, tmp_path: Path) -> None:
    """The decisions of the report are those for each picture alone."""
    found = judge(Request(bench.package, bench.data, bench.weights), Context(cache=tmp_path / "cache")).report
    adapter = fitted(bench.package, bench.backbone)
    for own in found.evaluation.worst:
        pixels = decode_picture((bench.data / own.file).read_bytes())
        logits = answer_each(adapter, bench.backbone, [pixels])[0]
        assert own.called == (adapter.manifest.labels[int(logits.argmax())],)
        share = float(torch.softmax(logits, 0)[adapter.manifest.labels.index(own.label)])
        assert own.probability == pytest.approx(share, abs=1e-5)
