"""kill -9 at every step: what was begun is there wholly or not at all, and what was acknowledged is there."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from crashing import Crashes, End, Job
from ledger import Told, check_directory
from lensmount_server.registry import Registry
from old_registry import old_directory
from registries import Shelf, add, add_all, opened

pytestmark = pytest.mark.slow

KILLED = -9
# What is done to three versions, of which `live` was the first and is the second.
WORK = [
    "open",
    "register new",
    "register 2",
    "promote 3",
    "back",
    "unset",
    "delete 3",
    "delete-task",
    "collect 0",
    "tag 1",
    "pin 1",
]
# What random histories are made of.
ANY = [
    *(f"register {card}" for card in range(1, 7)),
    *(f"promote {version}" for version in range(1, 7)),
    *(f"delete {version}" for version in range(1, 7)),
    *["back", "back", "unset", "delete-task", "collect 2", "tag 1", "tag 2"],
]
KILLS = 1000
KILLS_A_HISTORY = 10


@pytest.fixture(scope="module")
def crashes() -> Iterator[Crashes]:
    with Crashes() as running:
        yield running


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is one: the machine itself does not fail here, so its disk need not be asked."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="lensmount-crashes-", dir=place) as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Scene:
    """A data directory to begin from, and where its copies go."""

    start: Path
    shelf: Shelf
    crashes: Crashes

    def play(self, job: Job) -> End:
        """Do a job in a fresh copy."""
        shutil.rmtree(job.directory, ignore_errors=True)
        shutil.copytree(self.start, job.directory)
        return self.crashes.run(job)

    def go_on(self, registry: Registry, told: Told) -> None:
        """After a crash the next registration has the next number."""
        record, _ = add(registry, self.shelf, "afterwards")
        assert record.id.version == max(version for _, version in told.ever) + 1
        registry.set_alias("defect", "live", record.id.version)

    def job(self, work: str, defect: str = "") -> Job:
        """A job in the place for copies."""
        return Job(str(self.start.with_name("copy")), str(self.shelf.folder), (work,), defect=defect)


@pytest.fixture
def scene(memory: Path, shelf: Shelf, crashes: Crashes) -> Scene:
    start = memory / "start"
    with opened(start) as registry:
        add_all(registry, shelf, 3)
        registry.set_alias("defect", "live", 1)
        registry.set_alias("defect", "live", 2)
    shelf.package("new")
    return Scene(start, shelf, crashes)


def kill_everywhere(scene: Scene, job: Job) -> int:
    """Kill it at every step, one after the other, and look each time; the number of steps."""
    copy = Path(job.directory)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(scene.start, copy)
    before = check_directory(copy)
    whole = scene.play(job)
    assert whole.status == 0
    after = check_directory(copy)
    for step in range(1, len(whole.steps) + 1):
        end = scene.play(replace(job, kill_at=step))
        assert end.status == KILLED
        told = check_directory(copy, scene.go_on)
        assert told in (before, after), f"killed at {whole.steps[step - 1]}"
        assert told == after or not end.acknowledged
    return len(whole.steps)


@pytest.mark.parametrize("work", WORK)
def test_killed_at_any_step_it_was_done_or_not(scene: Scene, work: str) -> None:
    steps = kill_everywhere(scene, scene.job(work))
    assert steps > 20
    print(f"{work}: {steps} steps")


@pytest.mark.parametrize("work", ["register new", "delete 3", "register 2"])
def test_killed_while_it_clears_away_what_a_crash_left(scene: Scene, work: str) -> None:
    job = scene.job(work)
    steps = len(scene.play(job).steps)
    for part in (0.4, 0.6, 0.8, 0.9):
        scene.play(replace(job, kill_at=round(part * steps)))
        left = scene.start.with_name(f"left-{part}")
        shutil.move(job.directory, left)
        kill_everywhere(replace(scene, start=left), scene.job("open"))
        shutil.rmtree(job.directory)


def test_killed_while_it_takes_over_an_old_registry(scene: Scene) -> None:
    old = scene.start.with_name("old")
    old_directory(old, scene.shelf)
    steps = kill_everywhere(replace(scene, start=old), scene.job("open"))
    assert steps > 80


@pytest.mark.parametrize(
    ("work", "defect"),
    [
        ("register new", "row before package"),
        ("delete 3", "package before row"),
        ("collect 0", "package before row"),
        ("promote 3", "number in a transaction of its own"),
        ("back", "number in a transaction of its own"),
    ],
)
def test_a_registry_that_does_it_in_the_wrong_order_is_caught(scene: Scene, work: str, defect: str) -> None:
    with pytest.raises(AssertionError):
        kill_everywhere(scene, scene.job(work, defect))


def test_killed_at_any_moment_nothing_acknowledged_is_lost(memory: Path, shelf: Shelf, crashes: Crashes) -> None:
    draw = random.Random(14)
    killed = 0
    for history in range(KILLS // KILLS_A_HISTORY):
        directory = memory / str(history)
        with opened(directory) as registry:
            add_all(registry, shelf, 2)
        for _ in range(KILLS_A_HISTORY):
            work = tuple(draw.choices(ANY, k=40))
            end = crashes.run(Job(str(directory), str(shelf.folder), work, kill_after_s=draw.uniform(0.005, 0.06)))
            killed += end.status == KILLED
            told = check_directory(directory, partial(lasts, end.acknowledged))
        assert told.ever
        shutil.rmtree(directory)
    assert killed > 0.9 * KILLS
    print(f"{killed} killed")


def lasts(acknowledged: int, registry: Registry, _: Told) -> None:
    """What was said to be done is in the journal."""
    assert registry.pointed()[1] >= acknowledged
