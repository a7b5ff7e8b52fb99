"""The command as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file

from factories import lora_package, merged_model, pictures, random_backbone
from lensmount.cli import cli, group
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.importing.command import import_
from vits import save, tune, twin

LABELS = ("--labels", "a, b,c")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(import_, [str(argument) for argument in arguments])


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("import", "lensmount_adapters.importing.command:import_", f"{group.ENTRY_POINTS}.adapters")
    monkeypatch.setattr(group, "entry_points", lambda group: [entry] if group == entry.group else [])


def test_help_has_examples_and_every_kind_of_address() -> None:
    done = run("--help")
    assert done.exit_code == 0
    for part in ("Examples:", "hf://", "s3://", "--as lora", "--max-loss", "--json"):
        assert part in done.stdout


def test_facts_for_people(vit: Backbone, weights: Path, tmp_path: Path) -> None:
    lora_package(tmp_path, vit, labels=3)
    done = run(
        tmp_path / "peft",
        "--out",
        tmp_path / "out",
        "--task",
        "defect",
        *LABELS,
        "--backbone",
        "test_vit",
        "--weights",
        weights,
    )
    assert done.exit_code == 0, done.output
    assert "a, b, c" in done.stdout
    assert "1 low-rank, fork 6" in done.stdout
    assert "logits differ by" in done.stdout
    assert done.stdout.rstrip().endswith(f"Next: lensmount register {tmp_path / 'out'}")


def test_one_document_for_machines(vit: Backbone, weights: Path, tmp_path: Path) -> None:
    tune(twin(vit), tmp_path / "peft", ["q_proj", "v_proj"])
    base = save(twin(vit), tmp_path / "base")
    done = run(
        tmp_path / "peft",
        "--out",
        tmp_path / "out",
        "--task",
        "defect",
        "--backbone",
        "test_vit",
        "--weights",
        weights,
        "--base",
        base,
        "--json",
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["labels"] == ["kind-0", "kind-1", "kind-2"]
    assert document["difference"] < document["allowed"] == 1e-3
    assert document["settings"]["base"] == str(base)
    assert set(document["edits"].values()) == {"lora"}
    assert document["trials"] == []


def test_a_table_of_ranks_with_the_chosen_one_marked(vit: Backbone, weights: Path, tmp_path: Path) -> None:
    model = merged_model(vit, 3, seed=0)
    name = "blocks.5.mlp.fc1.weight"
    random = torch.Generator().manual_seed(0)
    weight = model.get_parameter(name).data
    weight += (
        torch.randn((len(weight), 1), generator=random) @ torch.randn((1, weight.shape[1]), generator=random) * 0.3
    )
    save_file(dict(model.state_dict()), tmp_path / "tuned.safetensors")
    (tmp_path / "shots").mkdir()
    for i, shot in enumerate(pictures(6)):
        Image.fromarray(shot).save(tmp_path / "shots" / f"{i}.png")
    done = run(
        tmp_path / "tuned.safetensors",
        "--out",
        tmp_path / "out",
        "--task",
        "t",
        *LABELS,
        "--backbone",
        "test_vit",
        "--weights",
        weights,
        "--as",
        "lora",
        "--pictures",
        tmp_path / "shots",
    )
    assert done.exit_code == 0, done.output
    head, first = done.stdout.splitlines()[:2]
    assert head.split()[:3] == ["rank", "MiB", "agreement"]
    assert first.split()[:2] == ["1", "*"]


def test_an_error_in_the_group_is_one_line(wired: None, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli, ["adapters", "import", "memory://nowhere", "--out", str(tmp_path / "o"), "--task", "t"]
    )
    assert done.exit_code == 3
    assert done.stderr.count("\n") == 1
    assert "Fix: check the bucket and the folder" in done.stderr


def test_a_missing_library_is_told_with_its_extra(
    wired: None, vit: Backbone, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora_package(tmp_path, vit, labels=3)
    monkeypatch.setitem(sys.modules, "peft", None)
    arguments = [tmp_path / "peft", "--out", tmp_path / "o", "--task", "t", *LABELS, "--backbone", "test_vit",
                 "--weights", weights]  # fmt: skip
    done = CliRunner().invoke(cli, ["adapters", "import", *map(str, arguments)])
    assert done.exit_code == 4
    assert "pip install 'lensmount[training]'" in done.stderr


def test_neither_transformers_nor_peft_is_imported_to_show_help() -> None:
    program = (
        "import sys; from lensmount_adapters.importing.command import import_; "
        "assert not {'transformers', 'peft'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_unused_backbones_are_not_guessed(tmp_path: Path) -> None:
    backbone = random_backbone("test_resnet")
    save_file(dict(merged_model(backbone, 3, seed=0).state_dict()), tmp_path / "t.safetensors")
    done = CliRunner().invoke(
        import_, [str(tmp_path / "t.safetensors"), "--out", str(tmp_path / "o"), "--task", "t", *LABELS]
    )
    assert "--backbone NAME" in str(done.exception)
