"""Every opening of the test set is on record before anybody has its pictures."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from datasets_made import dataset
from lensmount.errors import InvalidInputError
from lensmount_training.sealed import Sealed, identity, openings
from lensmount_training.split import split_file, split_once


def sealed(folder: Path, openings: Path | None = None) -> Sealed:
    data = dataset([20, 20])
    split = split_once(data, 0, folder / "defect")
    return Sealed(data, split, split_file(folder / "defect", data.hash, 0), openings or folder / "openings")


def test_openings_are_counted(tmp_path: Path) -> None:
    numbers = [sealed(tmp_path).open("test", content).number for content in ("a", "b", "c")]
    assert numbers == [1, 2, 3]
    for record in (sealed(tmp_path).record, sealed(tmp_path).shared):
        assert [opening["content"] for opening in openings(record)] == ["a", "b", "c"]
    assert len(sealed(tmp_path)) == 8


def test_the_pictures_are_those_of_the_split(tmp_path: Path) -> None:
    own = sealed(tmp_path)
    opened = own.open("test", "a")
    split = json.loads(next(path for path in tmp_path.iterdir() if path.suffix == ".json").read_text())
    assert sorted(opened.files) == split["test"]
    assert len(opened.pictures) == 8


def test_the_same_run_again_is_the_same_opening(tmp_path: Path) -> None:
    """A run that was killed between opening and packing opens with the same adapter again."""
    assert [sealed(tmp_path).open("test", content).number for content in ("a", "a", "b", "a")] == [1, 1, 2, 1]


def test_another_folder_is_the_same_test_set(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (sealed(tmp_path / name, tmp_path / "openings") for name in ("one", "two"))
    assert [own.open("test", content).number for own, content in ((one, "a"), (two, "b"), (one, "b"))] == [1, 2, 2]
    apart = sealed(tmp_path / "two", tmp_path / "elsewhere")
    assert apart.open("test", "c").number == 2  # what lies beside it is known, the other folder's "a" is not


def test_runs_that_came_from_another_machine_bring_their_openings(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    sealed(tmp_path / "one", tmp_path / "there").open("test", "a")
    assert sealed(tmp_path / "one", tmp_path / "here").open("test", "b").number == 2
    assert sealed(tmp_path / "two", tmp_path / "here").open("test", "c").number == 3


@pytest.mark.parametrize("record", ["record", "shared"])
def test_the_record_comes_first(record: str, tmp_path: Path) -> None:
    own = sealed(tmp_path)
    path: Path = getattr(own, record)
    path.mkdir(parents=True)
    with pytest.raises(InvalidInputError, match="can not be recorded") as caught:
        own.open("test", "a")
    assert caught.value.field == "split"
    assert caught.value.value.startswith(str(path)[:100])
    path.rmdir()
    assert own.open("test", "b").number == 1


def test_an_adapter_is_known_by_its_numbers() -> None:
    tensors = {"weight": torch.tensor([[1.0, 2.0]]), "count": torch.tensor(3)}
    known = identity(tensors, 1, (0.5,))
    assert identity({name: tensors[name].clone() for name in ("count", "weight")}, 1.0, [0.5]) == known
    assert identity({**tensors, "weight": tensors["weight"].half()}, 1.0, [0.5]) == known  # packed as float32
    others = [
        ({**tensors, "weight": torch.tensor([[1.0, 2.5]])}, 1.0, [0.5]),
        ({**tensors, "weight": torch.tensor([1.0, 2.0])}, 1.0, [0.5]),
        (tensors, 1.5, [0.5]),
        (tensors, 1.0, []),
    ]
    assert len({known, *(identity(*other) for other in others)}) == 5


def test_a_split_that_was_changed_after_an_opening_is_refused(tmp_path: Path) -> None:
    own = sealed(tmp_path)
    own.open("test", "a")
    path = next(path for path in tmp_path.iterdir() if path.suffix == ".json")
    path.write_text(path.read_text() + "\n")
    with pytest.raises(InvalidInputError, match="changed after it was opened"):
        own.open("test", "b")


def test_a_line_that_a_crash_cut_short_hides_nothing(tmp_path: Path) -> None:
    own = sealed(tmp_path)
    own.open("test", "a")
    for record in (own.record, own.shared):
        with record.open("a") as file:
            file.write('{"when": "2026')
    assert own.open("test", "b").number == 2
    assert [opening["content"] for opening in openings(own.record)] == ["a", "b"]


def test_two_at_once_get_two_numbers(tmp_path: Path) -> None:
    """A lock of a file holds between open files, of one process or of several."""
    sealed(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        numbers = pool.map(lambda name: sealed(tmp_path).open("test", name).number, map(str, range(24)))
        assert sorted(numbers) == list(range(1, 25))
