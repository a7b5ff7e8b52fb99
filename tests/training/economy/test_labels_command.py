"""`lensmount bench labels` as a person runs it, Ctrl-C included."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.torch import save_file

from factories import random_backbone
from lensmount_training.economy import command
from lensmount_training.economy.cells import Cell
from lensmount_training.economy.measuring import measure

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(digits: Path, tmp_path: Path) -> Run:
    file = tmp_path / "test_vit.safetensors"
    save_file(random_backbone("test_vit").model.state_dict(), file)
    usual = ["--backbone", "test_vit", "--weights", str(file), "--size", "32", "--labels", "5,10"]
    usual += ["--strategies", "features", "--seeds", "2"]
    usual += ["--results", str(tmp_path / "results.jsonl"), "--page", str(tmp_path / "page.md")]

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(command.labels, [str(digits), *usual, *arguments], catch_exceptions=False)
        return done.exit_code, done.stdout

    return call


def test_what_was_measured_before_ctrl_c_is_on_the_page_and_the_same_command_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(cells: Sequence[Cell], *more: Any) -> None:
        measure(cells[:3], *more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "measure", interrupted)
        status, said = run("--json")
    assert status == 130
    part = json.loads(said)
    assert len(part) == 3
    told = "**So far 3 of 4 trainings were measured**; whole seeds of those that are behind: feature extraction 1."
    assert told in (tmp_path / "page.md").read_text()

    status, said = run("--json")
    assert status == 0
    whole = json.loads(said)
    assert whole[:3] == part
    assert len(whole) == 4
    text = (tmp_path / "page.md").read_text()
    assert "So far" not in text
    picture = tmp_path / text.partition("](")[2].partition(")")[0]
    assert picture.read_bytes().startswith(b"\x89PNG")
