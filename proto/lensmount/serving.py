"""`lensmount serve` as a process of one's own, for as long as a `with` block: demos, benches, notebooks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensmount.errors import UnavailableError

# How long a process may take to end before it is killed.
STOP_S = 20.0
_SETTINGS = "LENSMOUNT_"


@dataclass(frozen=True)
class Server:
    """A server that runs: its address, its process number, its log."""

    address: str
    pid: int
    log: Path


@contextmanager
def serving(options: Sequence[str], log: Path, module: str = "lensmount") -> Iterator[Server]:
    """Run `lensmount serve` with these options on a free port of loopback; what it says goes to `log`.

    Settings of the user's own server in the environment are not its. `module` is what Python runs as the command
    line. Raises UnavailableError when it does not start.
    """
    command = [sys.executable, "-m", module, "serve", "--json", "--address", "127.0.0.1:0", *options]
    own = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=own) as process,  # noqa: S603 - our own
        ended(process),
    ):
        yield Server(_address(process, log), process.pid, log)


@contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[None]:
    """See to it that a process has ended after the `with` block: it is asked to, and then killed."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        status, told = process.wait(), log.read_text().strip()
        last = told.rpartition("\n")[2].removeprefix("Error: ") or f"it ended with {status}"
        fix = f"read how its log ends: {told[-2000:]}"
        raise UnavailableError(f"the server did not start: {last}", field="server", value=status, fix=fix)
    address: str = json.loads(line)["address"]
    return address
