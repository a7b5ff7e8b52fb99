"""`lensmount serve` in a process of its own, as a person starts it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import PATIENCE_S, Kit


@dataclass(frozen=True)
class Process:
    """A server in a process of its own, and what it said when it was ready."""

    running: subprocess.Popen[str]
    said: dict[str, Any]

    @property
    def address(self) -> str:
        """Where it listens."""
        address: str = self.said["address"]
        return address

    def stop(self, number: int) -> tuple[int, str]:
        """Its exit status after a signal, and what it wrote to its log."""
        self.running.send_signal(number)
        _, log = self.running.communicate(timeout=2 * PATIENCE_S)
        return self.running.returncode, log


def options(kit: Kit, data_dir: Path) -> list[str]:
    place = ["--address", "127.0.0.1:0", "--data-dir", str(data_dir)]
    return [*place, "--backbone", kit.backbone.name, "--weights", str(kit.weights), "--engine", "reference", "--json"]


@contextlib.contextmanager
def serving(kit: Kit, data_dir: Path) -> Iterator[Process]:
    """`lensmount serve` as a person starts it; killed at the end if it still runs."""
    command = [sys.executable, "-m", "lensmount", "serve", *options(kit, data_dir), "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        yield Process(running, json.loads(first_line(running)))
    finally:
        running.kill()
        running.communicate(timeout=PATIENCE_S)


def first_line(running: subprocess.Popen[str]) -> str:
    assert running.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(running.stdout, selectors.EVENT_READ)
        assert selector.select(2 * PATIENCE_S), "the server does not say that it is ready"
    line: str = running.stdout.readline()
    assert line, running.stderr.read() if running.stderr else ""
    return line
