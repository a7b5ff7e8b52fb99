from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

from lensmount_training.demo import surfaces
from lensmount_training.demo.defects import DEFECTS
from lensmount_training.demo.pictures import SIDE, PictureSettings, take_picture, write_pictures
from lensmount_training.demo.plates import Order
from lensmount_training.demo.surfaces import SURFACES, Part


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.jpg"))}


def test_two_balanced_image_folders_of_valid_pictures(tmp_path: Path) -> None:
    folders = write_pictures(tmp_path, PictureSettings(per_defect=6, per_surface=4))
    for folder, labels, count in ((folders.defect, DEFECTS, 6), (folders.surface, SURFACES, 4)):
        pictures = sorted(folder.rglob("*.jpg"))
        assert Counter(file.parent.name for file in pictures) == dict.fromkeys(labels, count)
        assert len({file.read_bytes() for file in pictures}) == len(pictures)
        for file in pictures:
            picture = cv2.imread(str(file))
            assert picture is not None
            assert picture.shape == (SIDE, SIDE, 3)
            assert picture.std() > 8


def test_a_seed_decides_every_byte(tmp_path: Path) -> None:
    first, again, other = tmp_path / "first", tmp_path / "again", tmp_path / "other"
    for folder, seed in ((first, 3), (again, 3), (other, 4)):
        write_pictures(folder, PictureSettings(per_defect=3, per_surface=2, seed=seed))
    assert files(first) == files(again)
    assert not set(files(first).values()) & set(files(other).values())


def test_every_surface_comes_equally_often_with_every_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[tuple[str, str]] = Counter()

    def counted(order: Order, part: Part, rng: np.random.Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        seen[order.surface, order.defect] += 1
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("lensmount_training.demo.pictures.take_picture", counted)
    write_pictures(tmp_path, PictureSettings(per_defect=6, per_surface=4))
    assert seen == dict.fromkeys(product(SURFACES, DEFECTS), 3)


def test_progress_counts_to_the_last_picture(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    note: Callable[[int, int], None] = lambda done, total: calls.append((done, total))  # noqa: E731 - it has a type
    write_pictures(tmp_path, PictureSettings(per_defect=2, per_surface=1), note)
    assert calls == [(done, 11) for done in range(1, 12)]


def test_only_the_pictures_part_of_a_photograph_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def files_with(clip_part: int) -> dict[str, bytes]:
        photograph = np.random.default_rng(0).integers(0, 256, (512, 512)).astype(np.uint8)
        photograph[:, Part.CLIP.value[0] :] = clip_part
        monkeypatch.setattr(surfaces, "_photograph", lambda _: photograph)
        folder = tmp_path / str(clip_part)
        write_pictures(folder, PictureSettings(per_defect=3, per_surface=1))
        return files(folder)

    assert files_with(0) == files_with(255)


def test_a_weak_and_a_plain_defect_are_both_in_view() -> None:
    for defect, strength, seed in product(DEFECTS[1:], (0.0, 1.0), range(3)):
        shown = take_picture(Order("brick", defect, strength), Part.PICTURES, np.random.default_rng(seed))
        assert shown.shape == (SIDE, SIDE, 3)
        assert shown.dtype == np.uint8
