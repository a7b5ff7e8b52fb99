from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lensmount_adapters.scratch import LOCK, beside, sweep

HOLD = """
import sys
from pathlib import Path
from lensmount_adapters.scratch import beside
with beside(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("written")
    print(folder, flush=True)
    sys.stdin.read()
"""


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_what_is_renamed_out_of_it_stays_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with beside(target) as scratch:
        assert scratch.parent == tmp_path
        (scratch / "whole").mkdir()
        (scratch / "rest").write_text("")
        (scratch / "whole").rename(target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_it_goes_with_an_error_too(tmp_path: Path) -> None:
    def fail() -> None:
        with beside(tmp_path / "target") as scratch:
            (scratch / "half").write_text("")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert hidden(tmp_path) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_holds_is_not(tmp_path: Path) -> None:
    target = tmp_path / "target"
    command = [sys.executable, "-c", HOLD, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        held = Path(process.stdout.readline().strip())
        sweep(target)
        with beside(target) as mine:
            assert sorted([held.name, mine.name]) == hidden(tmp_path)
        assert (held / "half").read_text() == "written"
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert hidden(tmp_path) == [held.name]
    sweep(target)
    assert hidden(tmp_path) == []


def test_what_others_called_alike_stays(tmp_path: Path) -> None:
    (tmp_path / ".target.settings").mkdir()
    (tmp_path / ".target.partial-notes").write_text("a file")
    (tmp_path / ".target.partial-mine").mkdir()
    (tmp_path / ".target.partial-mine" / "data").write_text("no lock of ours")
    (tmp_path / ".target2.partial-abc").mkdir()
    sweep(tmp_path / "target")
    assert len(hidden(tmp_path)) == 4


def test_one_that_was_only_made_goes(tmp_path: Path) -> None:
    (tmp_path / ".target.partial-abc").mkdir()
    sweep(tmp_path / "target")
    assert hidden(tmp_path) == []


def test_one_that_is_taken_before_it_is_locked_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    usual = os.mkdir

    def taken_once(path: str, mode: int = 0o777) -> None:
        usual(path, mode)
        made.append(Path(path))
        if len(made) == 1:
            Path(path).rmdir()

    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", taken_once)
        with beside(tmp_path / "target") as scratch:
            assert (scratch / LOCK).exists()
    assert len(made) == 2
    assert hidden(tmp_path) == []


def test_a_folder_that_can_not_be_listed_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", refused)
    with beside(tmp_path / "target") as scratch:
        assert scratch.is_dir()
