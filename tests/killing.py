"""As a script: rows are added to a store by a child for every line of rows.py, and it is killed before that line."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from lensmount_training.data import rows

SHAPE = (3, 4)


def add(folder: Path, keys: list[str]) -> None:
    """Rows full of their place."""
    with rows.RowStore(folder).added(keys, SHAPE, np.uint8) as room:
        for place in range(len(keys)):
            room[place] = place + 1


def add_and_die(folder: Path, keys: list[str], at: int) -> int:
    """As `add`, killed before line `at` of rows.py; gives how many lines there were."""
    count = 0

    def step(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != rows.__file__:
            return None
        if event == "line":
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
        return step

    sys.settrace(step)
    add(folder, keys)
    sys.settrace(None)
    return count


def main() -> None:
    """Folder, keys, and the lines to die before; each child has a folder of its own, named by its line."""
    folder, keys = Path(sys.argv[1]), sys.argv[2].split(",")
    last = add_and_die(folder / "0", keys, 0)
    for at in range(1, last + 1):
        child = os.fork()
        if not child:
            add_and_die(folder / str(at), keys, at)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
