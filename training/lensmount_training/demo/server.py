"""The real server, as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensmount.errors import UnavailableError

STOP_S = 15.0


@contextmanager
def started_server(folder: Path, backbone: str, weights: Path | None, source: str | None = None) -> Iterator[str]:
    """Run `lensmount serve` on a free port while the context is open; gives its address.

    Its data and its log lie in `folder`; where `source` is a file, its folder is open to sources.
    Raises UnavailableError when it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    command = [sys.executable, "-m", "lensmount", "serve", "--json", "--address", "127.0.0.1:0"]
    command += ["--backbone", backbone, "--data-dir", str(folder / "data")]
    if weights:
        command += ["--weights", str(weights)]
    if source and Path(source).is_file():
        command += ["--source-folder", str(Path(source).resolve().parent)]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,  # noqa: S603 - our own
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
        fix = f"read {log}"
        raise UnavailableError("the server did not start", field="server", value=process.wait(), fix=fix)
    address: str = json.loads(line)["address"]
    return address
