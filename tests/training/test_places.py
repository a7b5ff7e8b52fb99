"""Where a run writes is settled before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensmount.errors import InvalidInputError
from lensmount_training.places import choose_out
from lensmount_training.progress import NoProgress


class Said(NoProgress):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, text: str) -> None:
        self.sentences.append(text)


def never(_: Path) -> bool:
    return False


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_runs_and_the_task_by_default() -> None:
    said = Said()
    assert choose_out("defect", None, said, never) == Path("runs/defect")
    assert Path("runs").is_dir()
    assert not Path("runs/defect").exists()
    assert said.sentences == []


def test_the_next_free_one_and_a_word_about_it() -> None:
    for name in ("defect", "defect-2"):
        Path("runs", name).mkdir(parents=True)
    said = Said()
    assert choose_out("defect", None, said, never) == Path("runs/defect-3")
    assert said.sentences == ["runs/defect exists; this run goes to runs/defect-3"]


def test_a_place_of_ones_own(tmp_path: Path) -> None:
    said = Said()
    assert choose_out("defect", tmp_path / "a" / "b", said, never) == tmp_path / "a" / "b"
    assert (tmp_path / "a").is_dir()
    assert said.sentences == []


def test_a_place_that_exists_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(InvalidInputError, match="the folder exists") as caught:
        choose_out("defect", tmp_path / "mine", NoProgress(), never)
    assert (caught.value.field, caught.value.value) == ("out", str(tmp_path / "mine"))


def test_a_place_where_this_run_goes_on_is_its_own(tmp_path: Path) -> None:
    Path("runs/defect").mkdir(parents=True)
    Path("runs/defect-2").mkdir()
    said = Said()
    assert choose_out("defect", None, said, lambda place: place.name == "defect") == Path("runs/defect")
    assert choose_out("defect", Path("runs/defect-2"), said, lambda place: place.name == "defect-2")
    assert said.sentences == []
    with pytest.raises(InvalidInputError, match="the folder exists"):
        choose_out("defect", Path("runs/defect"), said, lambda place: place.name == "defect-2")


def test_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInputError, match="can not be written") as caught:
        choose_out("defect", tmp_path / "file" / "defect", NoProgress(), never)
    assert caught.value.field == "out"
    assert "--out" in caught.value.fix


@pytest.mark.parametrize("task", ["", "../up", "a b", "-x", "x" * 65, "naïve", "a/b"])
def test_tasks_that_are_no_names(task: str) -> None:
    with pytest.raises(InvalidInputError, match="not a task name") as caught:
        choose_out(task, None, NoProgress(), never)
    assert caught.value.field == "task"
    assert not Path("runs").exists()
