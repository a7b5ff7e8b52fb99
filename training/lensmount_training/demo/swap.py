"""Registers a second version while a stream runs and makes it live, beside the stream's own thread."""

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
    """One swap: registered by `begin`, made live by `promote`, seen by `see` in the results."""

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
        self._may_promote = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swap")

    def begin(self) -> None:
        """Register the version; returns at once."""
        self.begun = True
        self._thread.start()

    def promote(self) -> None:
        """Make it live, as soon as it is registered; returns at once."""
        self._may_promote.set()

    @property
    def over(self) -> bool:
        """Whether there is nothing more to be seen of it."""
        return self.times is not None or self._error is not None

    def see(self, result: Result) -> bool:
        """Look at a result; True for the first answer of the new version."""
        if self.times or not self._version or (result.task, result.version) != (self.task, self._version):
            return False
        self.times = SwapTimes(self._register_ms, (time.perf_counter() - self._called) * 1e3)
        return True

    def end(self) -> None:
        """Wait for the promotion; raises what went wrong with it."""
        self.promote()
        if self.begun:
            self._thread.join()
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            start = time.perf_counter()
            version = self._client.register(self._package).adapter.version
            self._register_ms = (time.perf_counter() - start) * 1e3
            self._may_promote.wait()
            self._called = time.perf_counter()
            self._version = version
            self._client.set_alias(self.task, version)
        except LensmountError as error:
            self._error = error
