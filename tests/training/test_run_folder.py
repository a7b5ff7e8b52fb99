"""A run that was killed goes on with the same settings, and with no others; two never share a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from children import with_tests
from lensmount.errors import InvalidInputError
from lensmount_training.progress import NoProgress
from lensmount_training.recipe import Recipe, read_recipe
from lensmount_training.run_folder import opened

NONE = NoProgress()
RECIPE = Recipe(data=Path("parts"), task="defect")
OTHER = RECIPE.model_copy(update={"seed": 1, "epochs": 3})


class Stopped(BaseException):
    """Stands for the end of the process: nothing handles it."""


def run(out: Path, error: BaseException, recipe: Recipe = RECIPE) -> None:
    """A run that keeps something and ends with an error."""
    with opened(out, recipe, NONE, fresh=False) as folder:
        folder.stages.mkdir(exist_ok=True)
        (folder.stages / "kept").touch()
        folder.check_found(data="a", backbone="b")
        raise error


def interrupted(out: Path) -> None:
    with pytest.raises(Stopped):
        run(out, Stopped())


def failed(out: Path) -> None:
    with pytest.raises(InvalidInputError):
        run(out, InvalidInputError("the loss is no number", field="learning_rate"))


def test_it_holds_the_recipe(tmp_path: Path) -> None:
    with opened(tmp_path / "defect", RECIPE, NONE, fresh=False) as folder:
        assert folder.path == tmp_path / "defect.run"
        assert read_recipe(folder.path / "recipe.yaml") == RECIPE


def test_the_same_settings_go_on(tmp_path: Path) -> None:
    interrupted(tmp_path / "defect")
    with opened(tmp_path / "defect", RECIPE, NONE, fresh=False) as folder:
        assert (folder.stages / "kept").exists()


def test_other_settings_do_not(tmp_path: Path) -> None:
    interrupted(tmp_path / "defect")
    with pytest.raises(InvalidInputError, match="other settings: seed, epochs") as caught:
        opened(tmp_path / "defect", OTHER, NONE, fresh=False).__enter__()
    assert caught.value.field == "resume"
    assert "--fresh" in caught.value.fix
    with opened(tmp_path / "defect", RECIPE, NONE, fresh=False) as folder:
        assert (folder.stages / "kept").exists()  # nothing was lost by asking


def test_fresh_starts_anew(tmp_path: Path) -> None:
    interrupted(tmp_path / "defect")
    with opened(tmp_path / "defect", OTHER, NONE, fresh=True) as folder:
        assert not folder.stages.exists()


def test_after_an_error_other_settings_may_be_tried(tmp_path: Path) -> None:
    failed(tmp_path / "defect")
    with opened(tmp_path / "defect", OTHER, NONE, fresh=False) as folder:
        assert not folder.stages.exists()


def test_after_an_error_the_same_settings_go_on(tmp_path: Path) -> None:
    """A disk that was full is not a reason to learn everything again."""
    failed(tmp_path / "defect")
    with opened(tmp_path / "defect", RECIPE, NONE, fresh=False) as folder:
        assert folder.stages.exists()


def test_a_finished_run_is_not_gone_on_with(tmp_path: Path) -> None:
    with opened(tmp_path / "defect", RECIPE, NONE, fresh=False) as folder:
        folder.stages.mkdir()
    with opened(tmp_path / "defect", RECIPE, NONE, fresh=False) as folder:
        assert not folder.stages.exists()


def test_data_that_changed_meanwhile_are_refused(tmp_path: Path) -> None:
    interrupted(tmp_path / "defect")
    with opened(tmp_path / "defect", RECIPE, NONE, fresh=False) as folder:
        folder.check_found(data="a", backbone="b")
        with pytest.raises(InvalidInputError, match="the data changed"):
            folder.check_found(data="c", backbone="b")


HOLD = """
from pathlib import Path
import sys, time
from lensmount_training.progress import NoProgress
from lensmount_training.recipe import Recipe
from lensmount_training.run_folder import opened
with opened(Path(sys.argv[1]), Recipe(data=Path("parts"), task="defect"), NoProgress(), fresh=False):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_never_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "defect")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=with_tests()) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(InvalidInputError, match="another process is training this"):
                opened(tmp_path / "defect", RECIPE, NONE, fresh=False).__enter__()
        finally:
            os.kill(holder.pid, signal.SIGKILL)
    with opened(tmp_path / "defect", RECIPE, NONE, fresh=False):  # the lock went with the process
        pass


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "defect.run").touch()
    with pytest.raises(InvalidInputError, match="can not be written") as caught:
        opened(tmp_path / "defect", RECIPE, NONE, fresh=False).__enter__()
    assert caught.value.field == "out"
