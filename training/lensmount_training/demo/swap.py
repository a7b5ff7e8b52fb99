"""Registers a second version in the middle of a stream and makes it live, beside the stream's own thread."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from lensmount import Client, Result
from lensmount.errors import LensmountError


@dataclass(frozen=True)
class SwapTimes:
    """`register_ms`: upload, gate and golden check; `swap_ms`: from the call to the first answer of the new version."""

    register_ms: float
    swap_ms: float


class Swap:
    """One promotion: begun by `begin`, seen by `see` in the results."""

    def __init__(self, client: Client, task: str, package: Path) -> None:
        self.task = task
        self.begun = False
        self.times: SwapTimes | None = None
        self._client = client
        self._package = package
        self._version = 0
        self._register_ms = 0.0
        self._called = 0.0
        self._error: LensmountError | None = None
        self._thread = threading.Thread(target=self._run, name="swap")

    def begin(self) -> None:
        """Start; returns at once."""
        self.begun = True
        self._thread.start()

    def see(self, result: Result) -> bool:
        """Look at a result; True for the first answer of the new version."""
        if self.times or not self._version or (result.task, result.version) != (self.task, self._version):
            return False
        self.times = SwapTimes(self._register_ms, (time.perf_counter() - self._called) * 1e3)
        return True

    def end(self) -> None:
        """Wait for the promotion; raises what went wrong with it."""
        if self.begun:
            self._thread.join()
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            start = time.perf_counter()
            version = self._client.register(self._package).adapter.version
            self._called = time.perf_counter()
            self._register_ms = (self._called - start) * 1e3
            self._version = version
            self._client.set_alias(self.task, version)
        except LensmountError as error:
            self._error = error
