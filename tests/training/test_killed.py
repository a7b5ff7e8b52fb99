"""A run that is killed again and again ends with the package that an undisturbed one gives, to the bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from children import with_tests
from lensmount_training.sealed import openings

RUN = """
import sys
from pathlib import Path
from factories import random_backbone
from lensmount_training.recipe import Recipe
from lensmount_training.workflow import train
data, out, cache = map(Path, sys.argv[1:])
choices = {"views": ("identity",), "audit": False, "strategy": "lora", "rank": 4, "epochs": 12, "last": 4}
train(Recipe(data=data, task="digit", **choices), out, cache=cache, backbone=random_backbone("test_vit"))
"""
FILES = ("adapter_model.safetensors", "adapter_config.json", "golden.safetensors", "README.md")
MOST_KILLS = 24


def started(data: Path, out: Path, cache: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, str(data), str(out), str(cache)], env=with_tests())


def whole(data: Path, folder: Path) -> Path:
    with started(data, folder / "digit", folder / "cache") as process:
        assert process.wait(120) == 0
    return folder / "digit"


def killed_when(process: subprocess.Popen[bytes], due: Callable[[], bool]) -> bool:
    """Kill the process as soon as it is time; false when it ended before that."""
    while process.poll() is None:
        if due():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.002)
    return False


def states(folder: Path) -> frozenset[str]:
    """What files a run has written so far, but for its logs and its cache; all that is not whole yet counts as one."""
    kept = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    others = (path for path in kept if not {"cache", "tensorboard", ".lock"} & set(path.parts))
    return frozenset("part" if any(name.startswith(".") for name in path.parts) else str(path) for path in others)


def ended(folder: Path) -> bool:
    state = folder / "digit.run" / "state.json"
    return state.is_file() and json.loads(state.read_text())["state"] == "done"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_every_file_that_it_writes(digits: Path, tmp_path: Path) -> None:
    expected = whole(digits, tmp_path / "undisturbed")
    folder = tmp_path / "disturbed"
    folder.mkdir()
    seen = {states(folder)}

    def something_new() -> bool:
        """Never twice at the same, so that every start gets further than the one before."""
        try:
            now = states(folder)
        except FileNotFoundError:  # it was renamed while we looked
            return False
        fresh = now not in seen
        seen.add(now)
        return fresh

    killed = behind = 0
    report = folder / "digit.run" / "report.html"
    while not ended(folder):
        with started(digits, folder / "digit", folder / "cache") as process:
            if killed < MOST_KILLS and killed_when(process, something_new):
                killed += 1
                behind += (folder / "digit").exists() and not report.exists()
            else:
                assert process.wait(120) == 0
    assert killed > 5
    assert behind  # the package stood, the report did not
    assert report.is_file()
    for name in FILES:
        assert (folder / "digit" / name).read_bytes() == (expected / name).read_bytes(), name
    (record,) = folder.glob("*.opened.jsonl")
    assert len(openings(record)) == 1
    assert sorted(path.suffix for path in folder.iterdir()) == ["", "", ".json", ".jsonl", ".run"]


@pytest.mark.slow
def test_without_checkpoints_it_would_not_be_the_same_work(digits: Path, tmp_path: Path) -> None:
    """The control: what is kept between two starts are the stages; without them everything is trained again."""
    with started(digits, tmp_path / "digit", tmp_path / "cache") as process:
        stages = tmp_path / "digit.run" / "stages" / "lora"
        assert killed_when(process, lambda: any(stages.rglob("training.pt")))
    kept = [path.name for path in (tmp_path / "digit.run" / "stages").iterdir()]
    assert sorted(kept) == ["features", "lora"]
