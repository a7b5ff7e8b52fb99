"""Wrong files in a package folder."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from lensmount.errors import TooLargeError
from lensmount_adapters.golden import FILE as GOLDEN_FILE
from lensmount_adapters.package import CONFIG_FILE, MANIFEST_FILE, PREFIX, TENSOR_FILE
from tampering import Kit, Tamper, both, complaint, in_tensors, written

FILES: dict[str, tuple[Tamper, str]] = {
    "no manifest": (lambda folder: (folder / MANIFEST_FILE).unlink(), r"package: file missing .*got task\.json"),
    "no tensors": (lambda folder: (folder / TENSOR_FILE).unlink(), "package: file missing .*got adapter_model"),
    "no golden": (lambda folder: (folder / GOLDEN_FILE).unlink(), "package: file missing .*got golden"),
    "no config": (lambda folder: (folder / CONFIG_FILE).unlink(), r"adapter_config\.json: needed for LoRA"),
    "an extra file": (written("notes.txt", b"hello"), r"package: .*belong.*got notes\.txt"),
    "a pickle": (written("adapter_model.bin", b"\x80\x04."), r"package: .*belong.*got adapter_model\.bin"),
    "a folder": (lambda folder: (folder / "README").mkdir(), "package: .*belong.*got README"),
    "a folder in a file's place": (
        both(lambda folder: (folder / "README.md").unlink(), lambda folder: (folder / "README.md").mkdir()),
        r"package: .*belong.*got README\.md",
    ),
    "a link": (
        both(
            lambda folder: (folder / MANIFEST_FILE).rename(folder.parent / "elsewhere.json"),
            lambda folder: (folder / MANIFEST_FILE).symlink_to(folder.parent / "elsewhere.json"),
        ),
        r"package: .*belong.*got task\.json.*plain files",
    ),
    "a dangling link": (lambda folder: (folder / "x").symlink_to("nowhere"), "package: .*belong.*got x"),
    "a named pipe": (lambda folder: os.mkfifo(folder / "pipe"), "package: .*belong.*got pipe"),
    "the folder is gone": (shutil.rmtree, "package: no such folder"),
    "no folder but a file": (both(shutil.rmtree, lambda folder: folder.write_text("x")), "package: no such folder"),
}


@pytest.mark.parametrize("case", FILES)
def test_wrong_files(case: str, vit: Kit, tmp_path: Path) -> None:
    tamper, expected = FILES[case]
    assert re.search(expected, complaint(vit, tmp_path, tamper))


@pytest.mark.parametrize(
    ("file", "size"),
    [
        (MANIFEST_FILE, (1 << 20) + 1),
        (CONFIG_FILE, (1 << 20) + 1),
        ("README.md", (4 << 20) + 1),
        (GOLDEN_FILE, (64 << 20) + 1),
        (TENSOR_FILE, (2 << 30) + 1),
    ],
)
def test_files_beyond_their_limit(file: str, size: int, vit: Kit, tmp_path: Path) -> None:
    text = complaint(vit, tmp_path, lambda folder: os.truncate(folder / file, size), TooLargeError)
    assert re.search(rf"{re.escape(file)}: at most .* bytes \(got {size:,} bytes\)", text)


def test_more_tensors_than_any_adapter_has(vit: Kit, tmp_path: Path) -> None:
    many = {f"{PREFIX}a{i}": torch.zeros(1) for i in range(20_001)}
    text = complaint(vit, tmp_path, in_tensors(lambda tensors: tensors.update(many)), TooLargeError)
    assert "at most 20,000 tensors" in text
