"""Folders of small real pictures: handwritten digits, drawn by people, as PNG files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from lensmount_training import workflow

DIGITS = {"one": 1, "three": 3, "seven": 7}


def write_digits(folder: Path, per_class: int, labels: dict[str, int] | None = None) -> Path:
    """An ImageFolder of digits, 48 pixels a side."""
    digits = load_digits()
    for label, digit in (labels or DIGITS).items():
        (folder / label).mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == digit][:per_class]):
            grey = (image * 15.9).astype(np.uint8).repeat(6, 0).repeat(6, 1)
            Image.fromarray(grey).save(folder / label / f"{number:03}.png")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded pictures and activations of tests are kept for tests alone."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(workflow, "default_cache", lambda: folder)
        yield


@pytest.fixture(autouse=True)
def _own_openings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests draw the same test set from the same pictures; each opens it for the first time."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits, 30 pictures of each."""
    return write_digits(tmp_path_factory.mktemp("digits") / "parts", 30)
