"""Every file is opened once; what is no picture is listed, and a folder that can not be trained on is refused."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from factories import random_backbone
from lensmount.errors import InvalidInputError, TooLargeError
from lensmount_training import data
from lensmount_training.data import Dataset, Pictures, Skipped, read_folder
from lensmount_training.progress import NoProgress

PREPROCESSING = random_backbone("test_vit").preprocessing


class Said(NoProgress):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, text: str) -> None:
        self.sentences.append(text)


def read(folder: Path) -> Dataset:
    return read_folder(folder, PREPROCESSING, NoProgress())


def encoded(seed: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


def fill(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(encoded(seed + number))
    return folder


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    fill(tmp_path / "parts" / "ok", 6)
    fill(tmp_path / "parts" / "hole", 5, seed=100)
    return tmp_path / "parts"


def test_classes_are_the_sorted_sub_folders(parts: Path) -> None:
    dataset = read(parts)
    assert dataset.labels == ("hole", "ok")
    assert [picture.label for picture in dataset.pictures] == [0] * 5 + [1] * 6
    assert dataset.pictures[0].file == "hole/0.png"
    assert dataset.pictures[0].pixels.shape == (3, PREPROCESSING.height, PREPROCESSING.width)
    assert dataset.skipped == ()


def test_pictures_below_sub_folders_of_a_class_belong_to_it(parts: Path) -> None:
    fill(parts / "ok" / "monday", 2, seed=50)
    assert [p.file for p in read(parts).pictures if "monday" in p.file] == ["ok/monday/0.png", "ok/monday/1.png"]


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("BMP", "L"), ("PNG", "I;16")]
)
def test_formats(parts: Path, kind: str, mode: str) -> None:
    (parts / "ok" / "other").write_bytes(encoded(77, kind, mode))
    dataset = read(parts)
    assert "ok/other" in {picture.file for picture in dataset.pictures}


def test_bad_files_are_listed_and_stop_nothing(parts: Path) -> None:
    (parts / "ok" / "cut.jpg").write_bytes(encoded(7, "JPEG")[:200])
    (parts / "ok" / "notes.txt").write_text("not a picture")
    (parts / "hole" / "empty.png").write_bytes(b"")
    (parts / "hole" / "gone.png").symlink_to(parts / "nowhere.png")
    said = Said()
    dataset = read_folder(parts, PREPROCESSING, said)
    assert [skipped.file for skipped in dataset.skipped] == [
        "hole/empty.png", "hole/gone.png", "ok/cut.jpg", "ok/notes.txt",
    ]  # fmt: skip
    assert all(skipped.reason for skipped in dataset.skipped)
    assert len(dataset.pictures) == 11
    assert [sentence.split(":")[0] for sentence in said.sentences] == [f"skipped {s.file}" for s in dataset.skipped]


def test_a_copy_is_skipped_so_that_it_can_not_reach_the_test_set(parts: Path) -> None:
    (parts / "ok" / "again.png").write_bytes((parts / "hole" / "3.png").read_bytes())
    dataset = read(parts)
    assert dataset.skipped == (Skipped("ok/again.png", "the same bytes as hole/3.png"),)


def test_hidden_files_are_left_alone(parts: Path) -> None:
    (parts / "ok" / ".DS_Store").write_bytes(b"x")
    fill(parts / ".thumbnails", 5, seed=200)
    fill(parts / "ok" / ".cache", 2, seed=300)
    dataset = read(parts)
    assert len(dataset.pictures) == 11
    assert dataset.skipped == ()


def test_hash_follows_names_and_content(parts: Path) -> None:
    before = read(parts).hash
    assert read(parts).hash == before
    (parts / "ok" / "0.png").rename(parts / "ok" / "zero.png")
    renamed = read(parts).hash
    (parts / "ok" / "zero.png").write_bytes(encoded(999))
    assert len({before, renamed, read(parts).hash}) == 3


def test_hash_knows_names_that_are_no_text(parts: Path) -> None:
    os.rename(parts / "ok" / "0.png", os.fsencode(parts / "ok") + b"/\xff.png")  # noqa: PTH104 bytes
    assert len(read(parts).hash) == 64


def test_parts_are_stacked(parts: Path) -> None:
    dataset = read(parts)
    stacked = Pictures.of(dataset.pictures[3:7])
    assert stacked.targets.tolist() == [0, 0, 1, 1]
    assert torch.equal(stacked.pixels[2], dataset.pictures[5].pixels)
    assert len(stacked) == 4


def no_folder(root: Path) -> Path:
    return root / "nothing"


def a_file(root: Path) -> Path:
    (root / "file").write_text("x")
    return root / "file"


def no_classes(root: Path) -> Path:
    return fill(root / "flat", 6)


def one_class(root: Path) -> Path:
    fill(root / "one" / "ok", 6)
    return root / "one"


def empty_class(root: Path) -> Path:
    fill(root / "two" / "ok", 6)
    (root / "two" / "hole").mkdir()
    return root / "two"


def few_pictures(root: Path) -> Path:
    fill(root / "few" / "ok", 6)
    fill(root / "few" / "hole", 4, seed=50)
    return root / "few"


def no_pictures(root: Path) -> Path:
    for label in ("ok", "hole"):
        (root / "none" / label).mkdir(parents=True)
    return root / "none"


def unreadable_class(root: Path) -> Path:
    fill(root / "bad" / "ok", 6)
    (root / "bad" / "hole").mkdir()
    for number in range(6):
        (root / "bad" / "hole" / f"{number}.png").write_text(f"{number}")
    return root / "bad"


def too_few_readable(root: Path) -> Path:
    folder = few_pictures(root)
    (folder / "hole" / "broken.png").write_text("x")
    return folder


def long_name(root: Path) -> Path:
    fill(root / "long" / "ok", 6)
    fill(root / "long" / ("x" * 101), 6)
    return root / "long"


def line_break(root: Path) -> Path:
    fill(root / "break" / "ok", 6)
    fill(root / "break" / "a\nb", 6)
    return root / "break"


@pytest.mark.parametrize(
    ("make", "message", "value"),
    [
        (no_folder, "no such folder", "nothing"),
        (a_file, "no such folder", "file"),
        (no_classes, "no class folder", "flat"),
        (one_class, "one class only", "ok"),
        (empty_class, "the class has no files", "hole"),
        (few_pictures, "the class has 4 files, at least 5", "hole"),
        (no_pictures, "no files in any class", "hole, ok"),
        (unreadable_class, "the class has no readable pictures", "hole"),
        (too_few_readable, "the class has 4 readable pictures", "hole"),
        (long_name, "at most 100 printable", "xxx"),
        (line_break, "at most 100 printable", "a\\nb"),
    ],
)
def test_folders_that_can_not_be_trained_on(
    tmp_path: Path, make: Callable[[Path], Path], message: str, value: str
) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        read(make(tmp_path))
    assert caught.value.field == "folder"
    assert value in caught.value.value
    assert caught.value.fix


def test_more_pictures_than_memory(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAX_PREPARED_BYTES", 10 * 3 * PREPROCESSING.height * PREPROCESSING.width)
    with pytest.raises(TooLargeError, match="11 pictures need"):
        read(parts)


def test_more_classes_than_a_package_may_name(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAX_LABELS", 1)
    with pytest.raises(InvalidInputError, match="at most 1 classes"):
        read(parts)
