"""Stratified, grouped, disjoint, at least a fifth sealed; the same for the same data and seed, and written once."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets_made import FACTS, dataset, dataset_of, made
from lensmount.errors import InvalidInputError
from lensmount_training.data import Picture
from lensmount_training.split import Split, draw_split, split_file, split_once

counts = st.lists(st.integers(5, 60), min_size=2, max_size=5)
seeds = st.integers(0, 2**31)


def per_class(files: tuple[str, ...]) -> Counter[str]:
    return Counter(file.split("/")[0] for file in files)


def parts_of(split: Split) -> dict[str, str]:
    return {file: part for part in ("train", "validation", "test") for file in getattr(split, part)}


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
    assert before.test_hash == after.test_hash


def test_adding_pictures_moves_few_into_training() -> None:
    before, after = draw_split(dataset([100, 100]), 0), draw_split(dataset([110, 100]), 0)
    assert len(set(before.test) & set(after.train)) <= 6


@given(st.lists(st.lists(st.integers(1, 30), min_size=3, max_size=12), min_size=2, max_size=4), seeds)
def test_groups_are_never_parted(groups: list[list[int]], seed: int) -> None:
    pictures = [
        made(label, 100 * group + number, group=f"{label}-{group}")
        for label, sizes in enumerate(groups)
        for group, size in enumerate(sizes)
        for number in range(size)
    ]
    split = draw_split(dataset_of(pictures, len(groups)), seed)
    where = parts_of(split)
    assert len(where) == len(pictures)
    for group in {picture.group for picture in pictures}:
        assert len({where[picture.file] for picture in pictures if picture.group == group}) == 1
    for label, sizes in enumerate(groups):
        for part in (split.test, split.validation, split.train):
            assert per_class(part)[str(label)] > 0
        if len(sizes) > 3:
            assert (
                per_class(split.test)[str(label)] >= math.ceil(sum(sizes) / 5)
                or len(
                    {
                        picture.group
                        for picture in pictures
                        if picture.file in split.train and picture.labels == (label,)
                    }
                )
                == 1
            )


def test_pictures_without_groups_are_parted() -> None:
    """The control: what keeps groups together above is the group."""
    where = parts_of(draw_split(dataset([60, 60]), 0))
    assert len({where[f"0/{number}.png"] for number in range(10)}) > 1


def test_near_duplicates_stay_together() -> None:
    pairs = [{f"0/{number}.png", f"0/{number + 1}.png"} for number in range(0, 40, 2)]
    where = parts_of(draw_split(dataset([40, 40]), 3, pairs))
    assert all(len({where[file] for file in pair}) == 1 for pair in pairs)
    apart = parts_of(draw_split(dataset([40, 40]), 3))
    assert not all(len({apart[file] for file in pair}) == 1 for pair in pairs)


def test_several_labels_a_picture_are_divided_evenly() -> None:
    pictures = [
        Picture(
            f"{number}.png",
            tuple(label for label in range(3) if number % (label + 2) == 0),
            f"{number:064}",
            "",
            "",
            FACTS,
        )
        for number in range(300)
    ]
    split = draw_split(dataset_of(pictures, 3, "multi_label"), 0)
    own = {picture.file: picture.labels for picture in pictures}
    for label in range(3):
        count = sum(label in labels for labels in own.values())
        sealed = sum(label in own[file] for file in split.test)
        assert 0.2 <= sealed / count <= 0.26


@pytest.mark.parametrize("groups", [1, 2])
def test_a_class_of_too_few_groups_is_refused(groups: int) -> None:
    with pytest.raises(InvalidInputError, match=f"of {groups} group") as caught:
        draw_split(dataset([30, 30], group=lambda number: f"day-{number % groups}"), 0)
    assert caught.value.value == "0"
    assert "--group-by none" in caught.value.fix


def test_a_class_missing_from_a_part_is_refused() -> None:
    pictures = [
        Picture(f"{n}.png", (0, 1) if n < 3 else (0,), f"{n:064}", "a" if n < 3 else "", "", FACTS) for n in range(30)
    ]
    with pytest.raises(InvalidInputError, match="group") as caught:
        draw_split(dataset_of(pictures, 2, "multi_label"), 0)
    assert caught.value.value == "1"


def in_every_part(split: Split, label: str) -> bool:
    return all(per_class(own)[label] for own in (split.train, split.validation, split.test))


# Class 1 is of three units, two of which are shared with class 0, which is rarer and divided first.
SHARED = ({"0/0.png", "1/0.png"}, {"0/1.png", "1/1.png"}, {f"1/{number}.png" for number in range(2, 8)})


def test_other_orders_are_tried_before_a_class_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset([5, 8])
    split = draw_split(data, 5, SHARED)
    assert in_every_part(split, "0")
    assert in_every_part(split, "1")
    assert draw_split(data, 5, SHARED) == split
    monkeypatch.setattr("lensmount_training.split.DRAWS", 1)
    with pytest.raises(InvalidInputError, match=r"missing from the .* part in 1 draws: near-duplicates stay"):
        draw_split(data, 5, SHARED)


def test_near_duplicates_that_leave_too_little_are_named() -> None:
    alike = [{f"0/{number}.png" for number in range(25)}, {f"0/{number}.png" for number in range(25, 30)}]
    with pytest.raises(InvalidInputError) as caught:
        draw_split(dataset([30, 30]), 0, alike)
    assert "(0/0.png, 0/1.png, 0/10.png and 22 more)" in caught.value.message
    assert "of 30 pictures 2 can be parted, at least 3 are needed" in caught.value.message
    assert "--group-by" not in str(caught.value.fix)
    assert caught.value.value == "0"


def test_a_part_holds_its_own_pictures_and_targets() -> None:
    data = dataset([10, 10])
    files = ("1/3.png", "0/7.png")
    part = data.take(files)
    assert part.targets.tolist() == [0, 1]
    assert part.pixels[0:2][:, 0, 0, 0].tolist() == [7, 13]
    assert part.select([1]).pixels[0:1][:, 0, 0, 0].tolist() == [13]


def test_it_is_written_once(tmp_path: Path) -> None:
    data, package = dataset([20, 20]), tmp_path / "defect"
    split = split_once(data, 0, package)
    path = split_file(package, data.hash, 0)
    first = path.read_bytes()
    path.chmod(0o444)
    assert split_once(data, 0, package) == split
    assert path.read_bytes() == first
    assert json.loads(first)["test_hash"] == split.test_hash
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "change",
    [
        lambda split: {**split, "train": split["train"][1:]},
        lambda split: {**split, "test": split["test"][1:], "train": [*split["train"], split["test"][0]]},
        lambda split: {**split, "data_hash": "0" * 64},
        lambda _: {"train": []},
    ],
)
def test_a_split_that_was_changed_by_hand_is_refused(
    change: Callable[[dict[str, list[str]]], object], tmp_path: Path
) -> None:
    data, package = dataset([20, 20]), tmp_path / "defect"
    split_once(data, 0, package)
    path = split_file(package, data.hash, 0)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InvalidInputError) as caught:
        split_once(data, 0, package)
    assert caught.value.field == "split"
    assert "delete the file" in caught.value.fix
