"""`lensmount adapters check` says what a server would say; `diff` shows what changed."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from lensmount.archive import open_archive
from lensmount.cli.group import CommandGroup
from lensmount_adapters.admission import STEPS
from lensmount_server.tools.commands import check, diff_
from serving import Kit, Served
from tampering import Tamper, in_json, in_tensors, removed

Run = Callable[..., Result]
GATE = [*STEPS, "warm-up", "golden", "policy"]


@pytest.fixture(scope="module")
def weights(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in kit.backbone.model.state_dict().items()}, path)
    return path


@pytest.fixture
def folder(kit: Kit, tmp_path: Path) -> Path:
    """A good package, to be spoilt."""
    return Path(shutil.copytree(kit.defect[0].folder, tmp_path / "package"))


@pytest.fixture
def run(weights: Path) -> Run:
    group = CommandGroup(commands={"check": check, "diff": diff_}, entry_group="nothing.of.the.kind")

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(group, [*map(str, arguments), "--weights", str(weights)])

    return run


def checks(result: Result) -> list[str]:
    return [each["name"] for each in json.loads(result.stdout)["checks"]]


def test_a_good_package_passes_the_whole_gate(folder: Path, run: Run) -> None:
    result = run("check", folder)
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == GATE


def test_a_zip_file_is_checked_as_a_folder_is(folder: Path, run: Run, tmp_path: Path) -> None:
    with open_archive(folder) as archive:
        (tmp_path / "package.zip").write_bytes(archive.file.read())
    (folder / ".hidden").write_text("stays at home, as with `register`")
    one, other = (json.loads(run("check", path, "--json").stdout) for path in (folder, tmp_path / "package.zip"))
    assert [each["detail"] for each in one["checks"][:3]] == [each["detail"] for each in other["checks"][:3]]
    assert one["ok"] is other["ok"] is True


def test_with_an_engine_both_are_asked(folder: Path, run: Run) -> None:
    result = run("check", folder, "--engine", "torch", "--precision", "fp32", "--json")
    assert result.exit_code == 0, result.output
    assert checks(result) == [*STEPS, "warm-up", "golden", "warm-up", "golden", "policy"]


WRONG: dict[str, tuple[Tamper, int, str]] = {
    "schema": (in_json("task.json", "labels", value=[]), 2, "task.json: labels"),
    "backbone": (in_json("task.json", "backbone", "fingerprint", value="0" * 64), 4, "task.json: backbone.fingerprint"),
    "names": (removed("base_model.model.head.weight"), 2, "adapter_model.safetensors: head.weight"),
    "golden": (in_tensors(lambda own: own["logits"].add_(1), "golden.safetensors"), 4, "golden check"),
}


@pytest.mark.parametrize("step", WRONG)
def test_what_is_wrong_is_one_error_behind_what_was_passed(step: str, folder: Path, run: Run) -> None:
    tamper, code, field = WRONG[step]
    tamper(folder)
    result = run("check", folder)
    assert result.exit_code == code
    assert result.stderr.startswith(f"Error: {field}")
    assert "Fix: " in result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == GATE[: GATE.index(step)]
    told = json.loads(run("check", folder, "--json").stdout)
    assert (told["ok"], told["error"]["field"]) == (False, field)
    assert told["error"]["fix"]


def test_a_file_that_does_not_belong_is_told_before_any_check(folder: Path, run: Run) -> None:
    (folder / "notes.txt").write_text("x")
    result = run("check", folder)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "notes.txt" in result.stderr


def test_the_policy_of_a_server(folder: Path, run: Run) -> None:
    in_json("task.json", "metrics", value={"macro_f1": 0.8})(folder)
    assert run("check", folder, "--minimum-metric", "macro_f1=0.8").exit_code == 0
    result = run("check", folder, "--minimum-metric", "defect:macro_f1=0.9", "--json")
    assert result.exit_code == 4
    assert checks(result) == GATE[:-1]
    assert run("check", folder, "--minimum-metric", "high").exit_code == 2


def test_another_backbone_may_be_named(folder: Path, run: Run) -> None:
    result = run("check", folder, "--backbone", "test_vit2")
    assert result.exit_code in {2, 4}
    assert "Error:" in result.stderr


def test_what_changed(kit: Kit, folder: Path, run: Run) -> None:
    first, second, third = kit.defect[0].adapter.manifest.labels
    in_json("task.json", "labels", value=[second, first, third])(folder)
    in_json("task.json", "metrics", value={"macro_f1": 0.75})(folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    save_file({**tensors, name: tensors[name] * 2}, folder / "adapter_model.safetensors")
    result = run("diff", kit.defect[0].folder, folder)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"LABELS MOVED, their scores stand elsewhere now: {first}: 0 -> 1, {second}: 1 -> 0")
    assert any(line.split()[:1] == ["macro_f1"] and "0.75" in line for line in lines)
    assert sum("100.00%" in line for line in lines) == 2
    assert "1 tensors differ" in result.stdout
    told = json.loads(run("diff", kit.defect[0].folder, folder, "--json").stdout)
    assert told["labels"]["moved"] == [first, second]
    assert [own["name"] for own in told["tensors"]] == [name.removeprefix("base_model.model.")]


def test_the_same_content_is_the_same(kit: Kit, folder: Path, run: Run) -> None:
    assert "the same content" in run("diff", kit.defect[0].folder, folder).stdout


def test_answers_on_the_golden_pictures_of_both(kit: Kit, folder: Path, run: Run) -> None:
    same = json.loads(run("diff", kit.defect[0].folder, folder, "--logits", "--json").stdout)["answers"]
    assert (same["agreeing"], same["largest_change"]) == (same["pictures"], 0)
    first, second, third = kit.defect[0].adapter.manifest.labels
    in_json("task.json", "labels", value=[third, first, second])(folder)
    other = json.loads(run("diff", kit.defect[0].folder, folder, "--logits", "--json").stdout)["answers"]
    assert other["agreeing"] < other["pictures"]
    assert other["largest_change"] > 0.01
    assert other["label"] in {first, second, third}


def test_a_type_that_no_package_has_is_refused(kit: Kit, folder: Path, run: Run) -> None:
    in_tensors(lambda own: own.update({"base_model.model.x": torch.ones(3, dtype=torch.float8_e4m3fn)}))(folder)
    result = run("diff", kit.defect[0].folder, folder)
    assert result.exit_code == 2
    assert "F32, F16, BF16 or I64 expected (got F8_E4M3)" in result.stderr


async def test_versions_of_a_server_are_compared_with_each_other_and_with_folders(live: Served, kit: Kit) -> None:
    await live.client.register(kit.defect[1].folder, alias="canary")
    group = CommandGroup(commands={"diff": diff_}, entry_group="nothing.of.the.kind")

    async def compared(*arguments: object) -> Result:
        line = [*map(str, arguments), "--server", live.address]
        return await asyncio.to_thread(CliRunner().invoke, group, ["diff", *line])

    folders = await compared(kit.defect[0].folder, kit.defect[1].folder, "--json")
    assert json.loads(folders.stdout)["tensors"]
    for before, after in (
        ("defect", "defect@canary"),
        ("defect:1", kit.defect[1].folder),
        (kit.defect[0].folder, "defect:2"),
    ):
        found = await compared(before, after, "--json")
        assert found.exit_code == 0, found.output
        assert found.stdout == folders.stdout
    plain = await compared("defect", "defect:2")
    assert plain.exit_code == 0
    assert plain.stdout
    for reference, said in (("weather", "no such task or alias"), ("defect:7", "no such adapter version")):
        for pair in ((reference, "defect"), ("defect", reference)):
            refused = await compared(*pair)
            assert (refused.exit_code, refused.stdout) == (3, "")
            assert said in refused.stderr
            assert "Fix: " in refused.stderr
    gone = await compared("gone/defect", "defect")
    assert gone.exit_code == 2
    assert "nothing there" in gone.stderr
