"""Stratified, disjoint, at least a fifth sealed; the same for the same data and seed, and written once."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensmount.errors import InvalidInputError
from lensmount_training.data import Dataset, Picture
from lensmount_training.split import Split, draw_split, split_file, split_once, take

counts = st.lists(st.integers(5, 60), min_size=2, max_size=5)
seeds = st.integers(0, 2**31)


def dataset(sizes: list[int], names: str = "{}/{}.png") -> Dataset:
    pictures = [
        Picture(
            names.format(label, number),
            label,
            hashlib.sha256(f"{label} {number}".encode()).hexdigest(),
            torch.full((3, 1, 1), number, dtype=torch.uint8),
        )
        for label, size in enumerate(sizes)
        for number in range(size)
    ]
    return Dataset(Path("parts"), tuple(str(i) for i in range(len(sizes))), tuple(pictures), ())


def per_class(files: tuple[str, ...]) -> Counter[str]:
    return Counter(file.split("/")[0] for file in files)


@given(counts, seeds)
def test_parts_are_disjoint_and_whole(sizes: list[int], seed: int) -> None:
    data = dataset(sizes)
    split = draw_split(data, seed)
    files = [*split.train, *split.validation, *split.test]
    assert sorted(files) == sorted(picture.file for picture in data.pictures)


@given(counts, seeds)
def test_every_class_has_its_share_of_every_part(sizes: list[int], seed: int) -> None:
    split = draw_split(dataset(sizes), seed)
    for label, size in enumerate(sizes):
        test, validation, train = (per_class(part)[str(label)] for part in (split.test, split.validation, split.train))
        assert test == math.ceil(size / 5)
        assert validation == max(1, round(0.15 * (size - test)))
        assert train >= 3


@given(counts, seeds)
def test_the_same_seed_draws_the_same(sizes: list[int], seed: int) -> None:
    assert draw_split(dataset(sizes), seed) == draw_split(dataset(sizes), seed)


def test_another_seed_draws_another() -> None:
    data = dataset([30, 30])
    assert len({draw_split(data, seed).test for seed in range(5)}) == 5


def test_renaming_moves_no_picture() -> None:
    before, after = draw_split(dataset([30, 30]), 1), draw_split(dataset([30, 30], "{}/new-{}.png"), 1)
    assert sorted(file.replace("new-", "") for file in after.test) == sorted(before.test)


def test_adding_pictures_moves_few_into_training() -> None:
    before, after = draw_split(dataset([100, 100]), 0), draw_split(dataset([110, 100]), 0)
    assert len(set(before.test) & set(after.train)) <= 6


def test_a_part_holds_its_own_pictures_and_targets() -> None:
    data = dataset([10, 10])
    split = draw_split(data, 0)
    test = take(data, split.test)
    assert test.targets.tolist() == [0, 0, 1, 1]
    own = {picture.file: int(picture.pixels[0, 0, 0]) for picture in data.pictures}
    assert sorted(test.pixels[:, 0, 0, 0].tolist()) == sorted(own[file] for file in split.test)


def test_written_once_and_read_again(tmp_path: Path) -> None:
    data = dataset([10, 10])
    first = split_once(data, 3, tmp_path / "defect")
    path = split_file(tmp_path / "defect", data.hash, 3)
    written = json.loads(path.read_text())
    assert written["data_hash"] == data.hash
    assert written["seed"] == 3

    swapped = written | {"train": written["test"], "test": written["train"]}
    path.write_text(json.dumps(swapped))
    again = split_once(data, 3, tmp_path / "defect-2")
    assert again.test == first.train  # what is on the disk is what counts

    split_once(dataset([10, 11]), 3, tmp_path / "defect")
    split_once(data, 4, tmp_path / "defect")
    assert json.loads(path.read_text()) == swapped
    assert len(list(tmp_path.iterdir())) == 3


def leave_one_out(split: dict[str, object]) -> dict[str, object]:
    train = split["train"]
    return split | {"train": train[1:] if isinstance(train, list) else train}


def twice(split: dict[str, object]) -> dict[str, object]:
    train, test = split["train"], split["test"]
    return split | {"train": [*train, *test]} if isinstance(train, list) and isinstance(test, list) else split


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda split: split | {"data_hash": "0" * 64}, "does not fit the data"),
        (lambda split: split | {"seed": 9}, "does not fit the data"),
        (leave_one_out, "does not fit the data"),
        (twice, "does not fit the data"),
        (lambda split: split | {"test": 7}, "not a split file"),
        (lambda split: [split], "not a split file"),
    ],
)
def test_a_split_changed_by_hand_is_refused(tmp_path: Path, changed: object, message: str) -> None:
    data = dataset([10, 10])
    split_once(data, 0, tmp_path / "defect")
    path = split_file(tmp_path / "defect", data.hash, 0)
    if callable(changed):
        path.write_text(json.dumps(changed(json.loads(path.read_text()))))
    with pytest.raises(InvalidInputError, match=message) as caught:
        split_once(data, 0, tmp_path / "defect")
    assert "delete the file" in caught.value.fix


def test_the_split_is_plain_values() -> None:
    split = draw_split(dataset([5, 5]), 0)
    assert isinstance(split, Split)
    assert hash(split) == hash(draw_split(dataset([5, 5]), 0))
