"""A folder beside what is being written, so that the last step is to rename it: whole or not at all.

Who is killed (SIGKILL, a power cut) can not clear up. So whoever writes holds a lock in its folder (flock(2)), which
goes with the process: a folder whose lock nobody holds was left behind, and the next who writes there removes it.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

LOCK = ".lock"
# How often a folder may be taken for one that was left behind before it is locked.
TRIES = 100


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, which is gone afterwards with all that is still in it. Raises OSError."""
    sweep(target)
    folder, lock = _locked(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def sweep(target: Path) -> None:
    """Remove the folders that killed processes left beside `target`; those that are in use stay."""
    left: list[Path] = []
    with suppress(OSError):  # a folder that can be written and not read
        left = [each for each in target.parent.iterdir() if each.name.startswith(_prefix(target))]
    for folder in left:
        with suppress(OSError):  # somebody holds it, or has just removed it
            if not (folder / LOCK).exists():
                folder.rmdir()  # its process did not come further than to make it
                continue
            with (folder / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)


def _locked(target: Path) -> tuple[Path, TextIOWrapper]:
    for _ in range(TRIES):
        folder = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        try:
            lock = (folder / LOCK).open("x")
        except FileNotFoundError:  # another one who writes there was quicker to remove it
            continue
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (folder / LOCK).exists():
                return folder, lock
        lock.close()
    raise FileNotFoundError(f"no folder can be kept beside {target}")


def _prefix(target: Path) -> str:
    return f".{target.name}.partial-"
