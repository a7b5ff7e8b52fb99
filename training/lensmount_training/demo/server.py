"""The real server, as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lensmount.errors import UnavailableError

STOP_S = 15.0


@dataclass(frozen=True)
class Served:
    """What the server is told: its backbone, what it pulls, and the Tritons that compute for it, if any."""

    backbone: str
    weights: Path | None = None
    source: str | None = None
    triton_url: tuple[str, ...] = ()

    def options(self) -> list[str]:
        """As they are typed. Where `source` is a file, its folder is open to sources."""
        options = ["--backbone", self.backbone]
        if self.weights:
            options += ["--weights", str(self.weights)]
        if self.source and Path(self.source).is_file():
            options += ["--source-folder", str(Path(self.source).resolve().parent)]
        if self.triton_url:
            options += ["--backend", "triton"]
        return [*options, *(word for url in self.triton_url for word in ("--triton-url", url))]


@contextmanager
def started_server(folder: Path, served: Served) -> Iterator[str]:
    """Run `lensmount serve` on a free port while the context is open; gives its address.

    Its data and its log lie in `folder`; settings of the user's own server in the environment are not its.
    Raises UnavailableError when it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    command = [sys.executable, "-m", "lensmount", "serve", "--json", "--address", "127.0.0.1:0"]
    command += ["--data-dir", str(folder / "data"), *served.options()]
    own = {name: value for name, value in os.environ.items() if not name.startswith("LENSMOUNT_")}
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=own) as process,  # noqa: S603 - our own
    ):
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        status, said = process.wait(), log.read_text().strip().splitlines()
        message = said[-1].removeprefix("Error: ") if said else f"it ended with {status}"
        raise UnavailableError(f"the server did not start: {message}", field="server", value=status, fix=f"read {log}")
    address: str = json.loads(line)["address"]
    return address
