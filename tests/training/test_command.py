"""`lensmount train` as a person types it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from factories import random_backbone
from lensmount.cli import cli
from lensmount.errors import UnavailableError
from lensmount_adapters.package import read_package
from lensmount_training import logs
from lensmount_training.recipe import Recipe
from lensmount_training.run_folder import RunFolder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(random_backbone("test_vit").model.state_dict(), path)
    return path


PLAIN = ("--no-audit", "--views", "identity")


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, ["train", *map(str, words)])


@pytest.fixture
def small(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The words that choose a small backbone, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return ["--backbone", "test_vit", "--weights", weights]


def test_features(digits: Path, small: list[object]) -> None:
    result = invoke(digits, "--task", "digit", *small, "--strategy", "features")
    assert result.exit_code == 0, result.output
    assert read_package(Path("runs/digit")).manifest.strategy == "features"
    for words in ("sealed test", "validation", "parameters: 195 beside", "three", "reading pictures", "Report: runs"):
        assert words in result.output
    assert "lensmount register runs/digit" in result.output


def test_lora_with_every_option_and_json(digits: Path, small: list[object], tmp_path: Path) -> None:
    options = ["--strategy", "lora", "--epochs", 1, "--rank", 2, "--alpha", 3, "--last", 2, "--learning-rate", 0.002]
    result = invoke(digits, "--task", "digit", *small, *options, *PLAIN, "--seed", 3, "--out", "mine", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.strip().splitlines()[-1])
    package = read_package(tmp_path / "mine")
    assert said["content_hash"] == package.content_hash
    assert said["out"] == "mine"
    assert said["holds"]
    assert said["test"]["accuracy"] == package.manifest.metrics["test_accuracy"]
    assert said["pictures"] == {"train": 60, "validation": 12, "test": 18}
    assert sum(map(sum, said["test"]["confusion"])) == 18
    settings = package.manifest.provenance.settings
    assert (settings["rank"], settings["alpha"], settings["epochs"]) == (2, 3, 1)
    assert (settings["last_segments"], settings["learning_rate"], settings["views"]) == (2, 0.002, "identity")
    assert package.manifest.provenance.seed == 3


def test_a_trained_head_and_a_schedule_of_ones_own(digits: Path, small: list[object]) -> None:
    head = ("--strategy", "features", "--head", "dropout", "--dropout", 0.4, "--epochs", 30, "--batch", 16, *PLAIN)
    rates = ("--learning-rate", 0.004, "--warmup", 0.2, "--weight-decay", 0.02, "--label-smoothing", 0.1)
    others = ("--ema", 0.5, "--patience", 9, "--no-class-weights")
    result = invoke(digits, "--task", "digit", *small, *head, *rates, *others)
    assert result.exit_code == 0, result.output
    settings = read_package(Path("runs/digit")).manifest.provenance.settings
    assert (settings["head"], settings["dropout"], settings["epochs"], settings["batch"]) == ("dropout", 0.4, 30, 16)
    assert (settings["learning_rate"], settings["warmup"], settings["weight_decay"]) == (0.004, 0.2, 0.02)
    assert (settings["label_smoothing"], settings["ema"], settings["patience"]) == (0.1, 0.5, 9)
    assert settings["class_weights"] is False


def test_a_second_run_gets_a_folder_of_its_own(digits: Path, small: list[object]) -> None:
    words = [digits, "--task", "digit", *small, *PLAIN, "--strategy", "features"]
    invoke(*words)
    result = invoke(*words)
    assert "runs/digit exists; this run goes to runs/digit-2" in result.output
    folders = sorted(path.name for path in Path("runs").iterdir() if path.is_dir())
    assert folders == ["digit", "digit-2", "digit-2.run", "digit.run"]
    assert len(list(Path("runs").glob("split-*.json"))) == 1


def test_skipped_files_are_named(digits: Path, small: list[object], tmp_path: Path) -> None:
    own = tmp_path / "own"
    for path in digits.rglob("*.png"):
        copy = own / path.relative_to(digits)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (own / "one" / "notes.txt").write_text("x")
    result = invoke(own, "--task", "digit", *small, *PLAIN, "--strategy", "features", "--json")
    assert "skipped one/notes.txt: the data is not a picture" in result.output
    assert json.loads(result.stdout.strip().splitlines()[-1])["skipped"][0]["file"] == "one/notes.txt"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere", "--task", "digit"), "data: "),
        ((".", "--task", "no name"), "task: "),
        ((".", "--task", "digit", "--learning-rate", "0"), "learning_rate: "),
        ((".",), "task: missing. Fix: give --task NAME"),
        (("--task", "digit"), "data: missing. Fix:"),
        ((".", "--task", "digit", "--last", "none"), "last: "),
        ((".", "--task", "digit", "--require-recall", "crack"), "require_recall: not a required recall (got crack)"),
        ((".", "--task", "digit", "--recipe", "gone.yaml"), "recipe: the recipe can not be read (got gone.yaml)"),
        ((".", "--task", "digit", "--group-by", "("), "group_by: "),
        (
            (".", "--task", "digit", "--strategy", "features", "--rank", "8"),
            "rank: --rank does nothing with --strategy",
        ),
    ],
)
def test_mistakes_are_one_sentence(words: tuple[str, ...], said: str, small: list[object]) -> None:
    result = invoke(*words, *small)
    assert result.exit_code == 2
    assert said in result.output
    assert "Fix:" in result.output
    assert "Traceback" not in result.output
    assert not list(Path().glob("runs/*"))


def test_a_recipe_makes_the_run_again(digits: Path, small: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("parts").symlink_to(digits)
    invoke("parts", "--task", "digit", *small, *PLAIN, "--strategy", "features", "--seed", 4, "--out", "first")
    text = Path("first.run/recipe.yaml").read_text()
    assert read_package(Path("first")).manifest.provenance.settings["recipe"] == text
    assert f"data: {Path('parts').absolute()}\n" in text
    assert "head: probe\n" in text
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    result = invoke("--recipe", "../first.run/recipe.yaml", "--out", "../second")
    monkeypatch.chdir("..")
    assert result.exit_code == 0, result.output
    first, second = (Path(name, "adapter_model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second
    result = invoke("--recipe", "first.run/recipe.yaml", "--seed", 5, "--out", "third")
    assert read_package(Path("third")).manifest.provenance.seed == 5


def test_a_dry_run_says_what_it_would_do_and_does_nothing(digits: Path, small: list[object]) -> None:
    words = [digits, "--task", "digit", *small, "--strategy", "lora", "--rank", 4, "--dry-run"]
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    for said in (
        "one 30, seven 30, three 30",
        "18 sealed, 12 to choose by, 60 to train on",
        "epochs of the last 4 of 8",
    ):
        assert said in " ".join(result.output.split())
    assert not list(Path().glob("runs/*"))
    plan = json.loads(invoke(*words, "--json").stdout.strip().splitlines()[-1])
    assert [step["name"] for step in plan["steps"]] == ["read", "audit", "split", "features", "lora", "sealed set"]
    assert plan["seconds_low"] == plan["seconds_high"] > 0
    result = invoke(*words[:-5], "--dry-run", "--json")
    tried = json.loads(result.stdout.strip().splitlines()[-1])["steps"]
    (lora,) = (step for step in tried if step["name"] == "lora")
    assert lora["what"].endswith("epochs of the last 2, 3, 5 or 8 of 8 segments")
    assert not lora["certain"]
    whole = json.loads(invoke(*words[:-5], "--strategy", "finetune", "--full", "--dry-run", "--json").stdout)
    (full,) = (step for step in whole["steps"] if step["name"] == "finetune")
    assert full["what"].endswith("epochs of the last 8 of 8 segments")


@pytest.mark.parametrize("dry", [("--dry-run",), ()])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--strategy", "lora", "--rank", 4096), "rank: out of range (got 4096)"),
        (("--strategy", "lora", "--last", 99), "last_segments: test_vit has 8 segments (got 99)"),
        (("--strategy", "finetune", "--last", 99), "last_segments: test_vit has 8 segments (got 99)"),
        (("--strategy", "finetune", "--last", 1), "last_segments: nothing to unfreeze in the last 1 of 8"),
        (("--strategy", "features", "--views", "foo"), "views: no such view (got foo)"),
        (("--strategy", "lora", "--targets", "foo"), "targets: no such kind of targets (got foo)"),
    ],
)
def test_what_can_not_work_is_told_before_anything_is_read(
    words: tuple[object, ...], said: str, dry: tuple[str, ...], digits: Path, small: list[object]
) -> None:
    result = invoke(digits, "--task", "digit", *small, *words, *dry)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())
    assert "Fix:" in result.output
    assert "reading pictures" not in result.output
    assert not list(Path().glob("runs/*"))


def test_a_dry_run_goes_where_the_run_would_go_on(digits: Path, small: list[object]) -> None:
    words = [digits, "--task", "digit", *small, *PLAIN, "--strategy", "features"]

    def planned(*more: str) -> str:
        result = invoke(*words, *more, "--dry-run", "--json")
        assert result.exit_code == 0, result.output
        return str(json.loads(result.stdout)["out"])

    assert planned() == "runs/digit"
    assert invoke(*words).exit_code == 0
    assert planned() == "runs/digit-2"
    folder = RunFolder(Path("runs/digit"))
    folder.mark("running")  # as when it was killed between its package and its report
    assert planned() == "runs/digit"
    assert planned("--seed", "7") == planned("--fresh") == "runs/digit-2"


def test_a_dry_run_tells_of_an_unfinished_run_with_other_settings(digits: Path, small: list[object]) -> None:
    words = [digits, "--task", "digit", *small, *PLAIN, "--strategy", "features"]
    folder = RunFolder(Path("runs/digit"))
    folder.path.mkdir(parents=True)
    recipe = Recipe(data=digits, task="digit", backbone="test_vit", strategy="features", seed=7)
    folder.put("recipe.yaml", recipe.as_yaml())
    folder.mark("running")
    result = invoke(*words, "--dry-run")
    assert result.exit_code == 2
    assert "an unfinished run has other settings: " in " ".join(result.output.split())
    assert "seed" in result.output
    assert invoke(*words, "--dry-run", "--fresh").exit_code == 0
    folder.mark("done")
    assert invoke(*words, "--dry-run").exit_code == 0


@pytest.mark.parametrize("second", ["three", "one"])
def test_what_is_required_decides_the_exit_code_and_the_next_step(
    second: str, digits: Path, small: list[object]
) -> None:
    """With the same digit under two names, no adapter finds all of both."""
    for label, source in (("a", "one"), ("b", second)):
        shutil.copytree(digits / source, Path("data", label))
        for path in Path("data", label).iterdir():
            with path.open("ab") as file:
                file.write(label.encode())  # else one would be left out as a copy of the other
    words = ["data", "--task", "digit", *small, *PLAIN, "--strategy", "features"]
    share = 0.5 if second == "three" else 1.0
    result = invoke(*words, "--require-recall", f"a={share}", "--require-recall", f"b={share}")
    holds = second == "three"
    assert result.exit_code == (0 if holds else 1), result.output
    assert ("Next: lensmount register" in result.output) == holds
    assert ("Next: look at the report" in result.output) != holds
    assert "Report: runs/digit.run/report.html" in result.output
    assert read_package(Path("runs/digit")).manifest.requirements == {"recall.a": share, "recall.b": share}


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_without_mlflow_nothing_is_begun(
    more: tuple[str, ...], digits: Path, small: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    result = invoke(digits, "--task", "digit", *small, "--mlflow", "sqlite:///mlflow.db", *more)
    assert result.exit_code not in (0, 1)
    assert "pip install 'lensmount[mlflow]'" in result.output
    assert "Traceback" not in result.output
    assert not Path("runs").exists()


def test_a_run_that_mlflow_does_not_take_is_told_all_the_same(
    digits: Path, small: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(address: str, *_: object) -> None:
        raise UnavailableError("MLflow did not take the run", field="mlflow", value=address, fix="give another")

    monkeypatch.setattr(logs, "check_mlflow", lambda: None)
    monkeypatch.setattr(logs, "to_mlflow", refused)
    words = [digits, "--task", "digit", *small, *PLAIN, "--strategy", "features", "--mlflow", "nowhere://else"]
    result = invoke(*words)
    assert result.exit_code not in (0, 1)
    assert "Next: lensmount register runs/digit" in result.output
    assert "MLflow did not take the run" in result.output


def test_help_teaches_by_example() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert "lensmount train parts --task defect --strategy lora" in result.output
    assert "parts/scratch/0001.jpg" in result.output
