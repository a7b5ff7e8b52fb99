"""Each fault of a picture is found under its own name, and none where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.pictures import Pixels
from lensmount_training.audit.looks import look
from lensmount_training.context import Context
from lensmount_training.data.dataset import Dataset
from planted import blurred, clean, opened, save, surface

FAULTS: dict[str, Callable[[Pixels], Pixels]] = {
    "dark": lambda x: np.asarray(x // 5, np.uint8),
    "light": lambda x: np.asarray(x // 16 + 240, np.uint8),
    "blurry": blurred,
    "low_information": lambda x: np.full_like(x, (90, 120, 150)),
    "odd_aspect_ratio": lambda x: np.ascontiguousarray(np.tile(x, (1, 4, 1))),
    "odd_size": lambda x: np.ascontiguousarray(x[:40, :40]),
    "grayscale": lambda x: np.ascontiguousarray(x[:, :, :1].repeat(3, 2)),
}


@pytest.mark.parametrize(("kind", "change"), FAULTS.items(), ids=FAULTS)
def test_a_planted_fault(
    kind: str, change: Callable[[Pixels], Pixels], tmp_path: Path, backbone: Backbone, context: Context
) -> None:
    folder = clean(tmp_path / "parts", 8)
    save(folder / "grass" / "planted.png", change(surface("grass", 100)))
    found = look(opened(folder, backbone, context), context)
    assert [fault.file for fault in found.of(kind)] == ["grass/planted.png"]
    assert {fault.file for fault in found.faults} == {"grass/planted.png"}
    assert not found.usual


def test_nothing_in_a_clean_folder(clean_data: Dataset, context: Context) -> None:
    found = look(clean_data, context)
    assert (found.faults, found.usual, found.unreadable) == ((), {}, ())


def test_what_most_pictures_are_is_no_fault(tmp_path: Path, backbone: Backbone, context: Context) -> None:
    for label in ("brick", "grass"):
        for number in range(8):
            change = FAULTS["grayscale"] if number else np.asarray
            save(tmp_path / "parts" / label / f"{number}.png", FAULTS["dark"](change(surface(label, number))))
    found = look(opened(tmp_path / "parts", backbone, context), context)
    assert found.usual["dark"] == 1.0
    assert [fault.file for fault in found.of("coloured")] == ["brick/0.png", "grass/0.png"]
    assert not found.of("grayscale")


def test_a_row_of_pixels_more_is_no_odd_size(tmp_path: Path, backbone: Backbone, context: Context) -> None:
    folder = clean(tmp_path / "parts", 8)
    save(folder / "grass" / "wider.png", surface("grass", 100, 98))
    assert not look(opened(folder, backbone, context), context).faults


def test_a_picture_that_is_gone_by_now_is_named(tmp_path: Path, backbone: Backbone, context: Context) -> None:
    folder = clean(tmp_path / "parts", 6)
    dataset = opened(folder, backbone, context)
    (folder / "grass" / "002.png").unlink()
    (folder / "grass" / "003.png").write_bytes(b"no picture any more")
    found = look(dataset, context)
    assert found.unreadable == ("grass/002.png", "grass/003.png")
    assert found.faults == ()
