"""A run that is killed again and again ends with the package that an undisturbed one gives, to the bit."""

from __future__ import annotations

import json
import shutil
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


COUNTED = f"""
import torch
steps, usual = [], torch.optim.AdamW.step
torch.optim.AdamW.step = lambda *own: (steps.append(1), usual(*own))[1]
{RUN}
print(len(steps))
"""


def steps_of(data: Path, folder: Path) -> int:
    """Steps of a run that goes on with what lies in the folder."""
    words = [sys.executable, "-c", COUNTED, str(data), str(folder / "digit"), str(folder / "cache")]
    done = subprocess.run(words, env=with_tests(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_without_what_stages_kept_everything_is_trained_again(digits: Path, tmp_path: Path) -> None:
    """The control: what a second start saves is what the first one kept, and nothing else."""
    killed, control = tmp_path / "killed", tmp_path / "control"
    with started(digits, killed / "digit", killed / "cache") as process:
        stages = killed / "digit.run" / "stages"
        assert killed_when(process, lambda: any((stages / "lora").rglob("training.pt")))
    shutil.copytree(killed, control)
    shutil.rmtree(control / "digit.run" / "stages")
    assert steps_of(digits, killed) < steps_of(digits, control)
    for name in FILES:
        assert (killed / "digit" / name).read_bytes() == (control / "digit" / name).read_bytes(), name
