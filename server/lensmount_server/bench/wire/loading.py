"""The load generator's process, from the side of the bench."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import Tensor

from lensmount.errors import ServerError
from lensmount_adapters.pictures import Pixels
from lensmount_server.bench.wire.load import Finding, Order

STOP_S = 10.0


class Loading:
    """Orders to a load generator; `held` is the file that it read."""

    def __init__(self, process: subprocess.Popen[str], held: Path, log: Path) -> None:
        self.held = held
        self._process = process
        self._log = log

    def run(self, order: Order) -> Finding:
        """Have an order carried out. Raises ServerError where it fails, or an answer is wrong."""
        if self._process.stdin is None or self._process.stdout is None:
            raise ServerError("the load generator can not be reached")
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            told = self._log.read_text(errors="replace")[-2000:]
            raise ServerError("the load generator failed", field="url", value=order.url, fix=told)
        found = Finding(**json.loads(line))
        if found.wrong:
            message = f"{found.wrong} of {order.requests} answers are wrong"
            raise ServerError(message, field="model", value=f"{order.model} at {order.url}", fix="believe no figure")
        return found


@contextmanager
def loading(pictures: Sequence[Pixels], expected: Tensor, scratch: Path) -> Iterator[Loading]:
    """A load generator that sends these pictures; `expected` are the scores (pictures, labels)."""
    held, log = scratch / "load.npz", scratch / "load.log"
    np.savez(held, pictures=np.stack(pictures), expected=expected.numpy())
    command = [sys.executable, "-m", "lensmount_server.bench.wire.load", str(held)]
    with (
        log.open("w") as errors,
        subprocess.Popen(  # noqa: S603 - our own
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            yield Loading(process, held, log)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
