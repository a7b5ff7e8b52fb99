from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import load_backbone
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.export.command import export
from lensmount_server.export.triton import export_triton
from serving import Kit


def test_the_command_writes_a_repository(kit: Kit, tmp_path: Path) -> None:
    told = ["triton", str(tmp_path), "--backbone", "test_vit", "--weights", str(kit.weights), "--precision", "fp32"]
    result = CliRunner().invoke(export, told, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "lensmount"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "1/model.py",
        "1/weights.safetensors",
        "README.md",
        "config.pbtxt",
    ]
    named = re.search(r"--weights FOLDER(\S+)", (folder / "README.md").read_text())
    assert named is not None
    assert (tmp_path / named[1].lstrip("/")).is_file()
    config = (folder / "config.pbtxt").read_text()
    assert 'key: "precision" value: { string_value: "fp32" }' in config
    assert kit.backbone.fingerprint in config
    again = load_backbone("test_vit", folder / "1" / "weights.safetensors")
    assert again.fingerprint == kit.backbone.fingerprint


def test_a_triton_of_another_user_can_read_all_of_it(kit: Kit, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = export_triton(tmp_path, kit.backbone, EngineSettings())
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o644}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o755}


def test_an_earlier_export_makes_room_and_nothing_else_does(kit: Kit, tmp_path: Path) -> None:
    folder = export_triton(tmp_path, kit.backbone, EngineSettings())
    (folder / "1" / "old").touch()
    export_triton(tmp_path, kit.backbone, EngineSettings(threads=3))
    assert not (folder / "1" / "old").exists()
    assert 'key: "threads" value: { string_value: "3" }' in (folder / "config.pbtxt").read_text()
    (folder / "config.pbtxt").write_text('backend: "onnxruntime"')
    (folder / "mine").touch()
    with pytest.raises(InvalidInputError, match="something else is there"):
        export_triton(tmp_path, kit.backbone, EngineSettings())
    assert (folder / "mine").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["lensmount"]


def test_an_export_that_fails_leaves_what_was_there(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export_triton(tmp_path, kit.backbone, EngineSettings())
    before = (folder / "config.pbtxt").read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lensmount_server.export.triton.save_tensors", full)
    with pytest.raises(OSError, match="No space"):
        export_triton(tmp_path, kit.backbone, EngineSettings(threads=3))
    assert (folder / "config.pbtxt").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["lensmount"]
