"""Near-duplicates are found through encoding, size, light and noise; look-alikes are left alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.pictures import Pixels, decode_picture
from lensmount_training.audit.duplicates import SIDE, Grey, alike, find_duplicates, near_duplicate_sets
from lensmount_training.context import Context
from lensmount_training.data.dataset import Dataset
from planted import clean, jpeg, noisy, opened, resized, save, scratched, surface

OURS = Path(os.environ.get("LENSMOUNT_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))


def grey(pixels: Pixels) -> Grey:
    return np.asarray(cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA))


PICTURE = surface("gravel", 1, 224)
SAME: dict[str, Callable[[Pixels], Pixels]] = {
    "encoded": lambda x: jpeg(x, 60),
    "smaller": lambda x: resized(x, 0.9),
    "larger and encoded": lambda x: jpeg(resized(x, 1.1)),
    "brighter": lambda x: np.asarray(x.clip(0, 240) + 12, np.uint8),
    "noise of a sensor": lambda x: noisy(x, 4),
}
OTHER: dict[str, Callable[[Pixels], Pixels]] = {
    "a scratch": scratched,
    "an encoded scratch": lambda x: jpeg(scratched(x)),
    "turned over": lambda x: np.ascontiguousarray(x[::-1]),
    "moved by 10 pixels": lambda x: np.roll(x, 10, 1),
    "the same surface elsewhere": lambda _: surface("gravel", 2, 224),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_the_same_picture(change: Callable[[Pixels], Pixels]) -> None:
    assert alike(grey(PICTURE), grey(change(PICTURE)))


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_another_picture(change: Callable[[Pixels], Pixels]) -> None:
    assert not alike(grey(PICTURE), grey(change(PICTURE)))


def test_empty_pictures_are_alike_only_when_they_are_equal() -> None:
    empty = np.full((224, 224, 3), 128, np.uint8)
    assert not alike(grey(noisy(empty, 3, seed=1)), grey(noisy(empty, 3, seed=2)))
    assert alike(grey(empty), grey(empty.copy()))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 12))
def test_the_rule_is_symmetric_and_a_picture_is_like_itself(one: int, other: int, noise: int) -> None:
    a = grey(surface("brick", one))
    b = grey(noisy(surface("brick", one if noise else other), noise))
    assert alike(a, a)
    assert alike(a, b) == alike(b, a)


def test_sets_over_classes_and_chains(tmp_path: Path, backbone: Backbone, context: Context) -> None:
    folder = clean(tmp_path / "parts", 8)
    base = surface("brick", 0)
    save(folder / "brick" / "encoded.png", jpeg(base))
    save(folder / "grass" / "smaller.png", resized(base, 0.95))
    save(folder / "gravel" / "again.bmp", surface("gravel", 3))
    dataset = opened(folder, backbone, context)
    found = find_duplicates(dataset, context)
    assert found.sets == (
        frozenset({"brick/000.png", "brick/encoded.png", "grass/smaller.png"}),
        frozenset({"gravel/003.png", "gravel/again.bmp"}),
    )
    assert found.identical == {"gravel/again.bmp"}
    assert found.surplus == 3
    assert near_duplicate_sets(dataset, context) == found.sets


def test_no_set_in_a_clean_folder(clean_data: Dataset, context: Context) -> None:
    found = find_duplicates(clean_data, context)
    assert (found.sets, found.scenes, found.identical) == ((), (), frozenset())


def test_smooth_surfaces_do_not_become_one_giant_set(tmp_path: Path, backbone: Backbone, context: Context) -> None:
    for label, level in (("matt", 120), ("shiny", 180)):
        for number in range(30):
            save(tmp_path / "parts" / label / f"{number}.png", noisy(np.full((96, 96, 3), level, np.uint8), 3, number))
    assert near_duplicate_sets(opened(tmp_path / "parts", backbone, context), context) == ()


def test_one_scene_before_a_fixed_camera_is_told_and_not_joined(
    tmp_path: Path, backbone: Backbone, context: Context
) -> None:
    folder = clean(tmp_path / "parts", 10)
    for number in range(25):
        save(folder / "brick" / f"scene-{number}.png", noisy(surface("brick", 500), 4, number))
    found = find_duplicates(opened(folder, backbone, context), context)
    assert found.sets == ()
    assert [len(files) for files in found.scenes] == [25]


@pytest.mark.skipif(not (OURS / "deeppcb_patches").is_dir(), reason="no test data; set LENSMOUNT_TEST_DATA")
def test_binarised_boards_stay_apart_and_a_copy_among_them_is_found(
    tmp_path: Path, backbone: Backbone, context: Context
) -> None:
    for label in ("copper", "pinhole"):
        shutil.copytree(OURS / "deeppcb_patches" / label, tmp_path / "boards" / label)
    first = tmp_path / "boards" / "pinhole" / "train_000.png"
    save(first.with_name("encoded.png"), jpeg(decode_picture(first.read_bytes()), 80))
    found = find_duplicates(opened(tmp_path / "boards", backbone, context), context)
    assert found.sets == (frozenset({"pinhole/encoded.png", "pinhole/train_000.png"}),)
    assert found.scenes == ()
