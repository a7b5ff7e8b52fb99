"""Every opening of the test set is on record before anybody has its pictures."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datasets_made import dataset
from lensmount.errors import InvalidInputError
from lensmount_training.sealed import Sealed, openings
from lensmount_training.split import split_file, split_once


def sealed(folder: Path) -> Sealed:
    data = dataset([20, 20])
    return Sealed(data, split_once(data, 0, folder / "defect"), split_file(folder / "defect", data.hash, 0))


def test_openings_are_counted(tmp_path: Path) -> None:
    numbers = [sealed(tmp_path).open("test", content).number for content in ("a", "b", "")]
    assert numbers == [1, 2, 3]
    assert [opening["content"] for opening in openings(sealed(tmp_path).record)] == ["a", "b", ""]
    assert len(sealed(tmp_path)) == 8


def test_the_pictures_are_those_of_the_split(tmp_path: Path) -> None:
    own = sealed(tmp_path)
    opened = own.open("test")
    split = json.loads(next(path for path in tmp_path.iterdir() if path.suffix == ".json").read_text())
    assert sorted(opened.files) == split["test"]
    assert len(opened.pictures) == 8


def test_the_same_run_again_is_the_same_opening(tmp_path: Path) -> None:
    """A run that was killed between opening and packing opens with the same adapter again."""
    assert [sealed(tmp_path).open("test", content).number for content in ("a", "a", "b", "a")] == [1, 1, 2, 1]


def test_the_record_comes_first(tmp_path: Path) -> None:
    own = sealed(tmp_path)
    own.record.mkdir()
    with pytest.raises(InvalidInputError, match="can not be recorded") as caught:
        own.open("test")
    assert caught.value.field == "split"


def test_a_split_that_was_changed_after_an_opening_is_refused(tmp_path: Path) -> None:
    own = sealed(tmp_path)
    own.open("test")
    path = next(path for path in tmp_path.iterdir() if path.suffix == ".json")
    path.write_text(path.read_text() + "\n")
    with pytest.raises(InvalidInputError, match="changed after it was opened"):
        own.open("test")


def test_a_line_that_a_crash_cut_short_hides_nothing(tmp_path: Path) -> None:
    own = sealed(tmp_path)
    own.open("test", "a")
    with own.record.open("a") as file:
        file.write('{"when": "2026')
    assert own.open("test", "b").number == 2
    assert [opening["content"] for opening in openings(own.record)] == ["a", "b"]


def test_two_at_once_get_two_numbers(tmp_path: Path) -> None:
    """A lock of a file holds between open files, of one process or of several."""
    sealed(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        numbers = pool.map(lambda name: sealed(tmp_path).open("test", name).number, map(str, range(24)))
        assert sorted(numbers) == list(range(1, 25))
