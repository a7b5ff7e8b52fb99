"""Another backbone than the server's, and edits that it can not have."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from lensmount.errors import IncompatibleError
from lensmount_adapters.adapter import fit
from lensmount_adapters.package import MANIFEST_FILE, read_package
from tampering import Kit, Tamper, complaint, in_json

BACKBONES: dict[str, tuple[Tamper, str]] = {
    "another name": (
        in_json(MANIFEST_FILE, "backbone", "name", value="resnet18"),
        r"task\.json: backbone\.name: the adapter is for resnet18, this server runs test_vit .*--backbone resnet18",
    ),
    "other weights": (
        in_json(MANIFEST_FILE, "backbone", "fingerprint", value="a" * 64),
        r"task\.json: backbone\.fingerprint: other weights: this server's test_vit is [0-9a-f]{12}…",
    ),
    "another size": (
        in_json(MANIFEST_FILE, "preprocessing", "height", value=96),
        r"task\.json: preprocessing: test_vit takes pictures of 160x160 only \(got 160x96\)",
    ),
}


@pytest.mark.parametrize("case", BACKBONES)
def test_another_backbone(case: str, vit: Kit, tmp_path: Path) -> None:
    tamper, expected = BACKBONES[case]
    assert re.search(expected, complaint(vit, tmp_path, tamper, IncompatibleError))


def test_a_convolutional_backbone_takes_other_sizes(resnet: Kit, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(resnet.folder, tmp_path / "package"))
    in_json(MANIFEST_FILE, "preprocessing", "height", value=96)(folder)
    assert fit(read_package(folder), resnet.backbone).manifest.preprocessing.height == 96


EDITS: dict[str, tuple[Tamper, str]] = {
    "an unknown segment": (
        in_json(MANIFEST_FILE, "edits", 0, "segment", value="blocks.99"),
        r"task\.json: edits: test_vit has no such segment \(got blocks\.99\)",
    ),
    "a segment without modules": (
        in_json(MANIFEST_FILE, "edits", 0, "segment", value="norm"),
        r"no LoRA tensor for this segment \(got norm\)",
    ),
    "a fork that does not follow": (
        in_json(MANIFEST_FILE, "fork", value=2),
        r"task\.json: fork: 6 follows from the edits \(got 2\)",
    ),
    "a fork beyond the backbone": (in_json(MANIFEST_FILE, "fork", value=10**9), "fork: 6 follows from the edits"),
    "no edit, but LoRA": (in_json(MANIFEST_FILE, "edits", value=[]), "task.json names no LoRA edit"),
    "replaced instead of LoRA": (
        in_json(MANIFEST_FILE, "edits", 0, "kind", value="replace"),
        "task.json names no LoRA edit",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_wrong_edits(case: str, vit: Kit, tmp_path: Path) -> None:
    tamper, expected = EDITS[case]
    assert re.search(expected, complaint(vit, tmp_path, tamper))
