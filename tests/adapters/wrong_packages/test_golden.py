"""Golden files that can not be compared with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from lensmount.errors import TooLargeError
from lensmount_adapters.golden import FILE as GOLDEN_FILE
from tampering import Kit, Tamper, complaint, in_tensors, removed

NAN, INF = float("nan"), float("inf")

GOLDEN: dict[str, tuple[Tamper, str]] = {
    "no logits": (removed("logits", GOLDEN_FILE), r"1 to 16 pictures and their logits expected \(got picture\.00"),
    "no picture": (
        in_tensors(lambda own: [own.pop(name) for name in ("picture.00", "picture.01")], GOLDEN_FILE),
        "1 to 16 pictures and their logits expected",
    ),
    "17 pictures": (
        in_tensors(lambda own: own.update({f"x{i}": torch.zeros(1) for i in range(15)}), GOLDEN_FILE),
        "1 to 16 pictures",
    ),
    "one picture more": (
        in_tensors(lambda own: own.update(more=own["picture.00"].clone()), GOLDEN_FILE),
        r"logits: shape \(3, 3\) expected",
    ),
    "logits for other labels": (
        in_tensors(lambda own: own.update(logits=own["logits"][:, :2]), GOLDEN_FILE),
        r"logits: shape \(2, 3\) expected \(got \(2, 2\)\)",
    ),
    "logits of half precision": (
        in_tensors(lambda own: own.update(logits=own["logits"].half()), GOLDEN_FILE),
        "logits: F32 expected .got F16",
    ),
    "NaN logits": (
        in_tensors(lambda own: own.update(logits=own["logits"] * NAN), GOLDEN_FILE),
        "logits: holds NaN or infinity",
    ),
    "grey pictures": (
        in_tensors(lambda own: own.update({"picture.00": own["picture.00"][:, :, 0]}), GOLDEN_FILE),
        r"picture\.00: shape \(height, width, 3\) expected .*got \(90, 120\)",
    ),
    "float pictures": (
        in_tensors(lambda own: own.update({"picture.00": own["picture.00"].float()}), GOLDEN_FILE),
        r"picture\.00: U8 expected .got F32",
    ),
    "a picture without pixels": (
        in_tensors(lambda own: own.update({"picture.00": own["picture.00"][:0]}), GOLDEN_FILE),
        r"picture\.00: the picture has no pixels \(got 120x0\)",
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_wrong_golden_files(case: str, vit: Kit, tmp_path: Path) -> None:
    tamper, expected = GOLDEN[case]
    text = complaint(vit, tmp_path, tamper)
    assert text.startswith(GOLDEN_FILE)
    assert re.search(expected, text), text


def test_a_golden_picture_beyond_the_limits(vit: Kit, tmp_path: Path) -> None:
    wide = torch.zeros(1, 20_000, 3, dtype=torch.uint8)
    tamper = in_tensors(lambda own: own.update({"picture.00": wide}), GOLDEN_FILE)
    assert re.search(r"picture\.00: .*too large \(got 20000x1\)", complaint(vit, tmp_path, tamper, TooLargeError))
