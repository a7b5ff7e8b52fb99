"""One Triton with what is known of it: whether it may be asked, what is mounted there, how fast it is.

A thread of its own keeps it: asks every second whether it is still there; when it is not, tries again ever less often
(up to every two seconds), and gives it every adapter that it must have before it gets rows again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from lensmount.errors import LensmountError, UnavailableError
from lensmount_server.defects import known
from lensmount_server.triton.instance import Instance, SilentError
from lensmount_server.triton.wire import ContentHash, Description, Place

log = logging.getLogger(__name__)

PING_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
# A call that got no answer for so long is a Triton that hangs, and not a deadline that was too near.
SILENT_S = 2.0
# How much of the newest batch is in a Triton's speed.
NEWEST = 0.2
UNMOUNTERS = 4


@dataclass
class Wanted:
    """What every Triton must have: `archive` gives the package of a content hash. Guarded by `changed`."""

    archive: Callable[[ContentHash], bytes]
    hashes: set[ContentHash] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)


class Member:
    """The Triton at `url`. `frame_s` is what a frame takes there (0: not known), `reason` why it is away.

    `check` raises LensmountError for an engine that does not fit this server.
    """

    def __init__(self, url: str, wanted: Wanted, check: Callable[[str, Description], object]) -> None:
        self.url = url
        self.instance = Instance(url)
        self.ready = False
        self.away_since_s = time.perf_counter()
        self.reason = "it was not asked yet"
        self.description: Description | None = None
        self.frame_s = 0.0
        self.refused: dict[ContentHash, LensmountError] = {}
        self._wanted = wanted
        self._check = check
        self._mounted: set[ContentHash] = set()
        self._unanswered_since: float | None = None
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._keep, name=f"triton-{url}", daemon=True)

    def connect(self) -> None:
        """Ask what is there and bring it what is wanted; ready afterwards. Raises LensmountError."""
        description = self.instance.describe()
        self._check(self.url, description)
        self.instance.share_memory()
        self.refused = {}
        self._mounted = set(description.mounted)
        self._drop_strangers()
        while not self._complete(description):
            for content_hash in self._missing():
                self._bring(content_hash)
        self._drop_strangers()  # what nobody wanted any more by then

    def keep(self) -> None:
        """Look after it from now on."""
        self._thread.start()

    def mount(self, content_hash: ContentHash, archive: bytes) -> None:
        """Bring it an adapter; raises LensmountError, and is lost when it does not answer."""
        try:
            self.instance.mount(content_hash, archive)
        except UnavailableError as error:
            self.lost(error)
            raise
        self._mounted.add(content_hash)

    def unmount(self, content_hash: ContentHash) -> None:
        """Have it forget an adapter; lost when it does not answer."""
        self._mounted.discard(content_hash)
        self.refused.pop(content_hash, None)
        try:
            self.instance.unmount(content_hash)
        except LensmountError as error:
            self.lost(error)

    def answered(self, frames: int, seconds: float) -> None:
        """Note a batch that it ran."""
        self._unanswered_since = None
        own = seconds / frames
        self.frame_s = own if not self.frame_s else (1 - NEWEST) * self.frame_s + NEWEST * own

    def failed(self, error: UnavailableError, waited_s: float) -> None:
        """Note a batch that it did not run: it is lost, unless all that is known is that a deadline was too near."""
        if not isinstance(error, SilentError):
            self.lost(error)
            return
        now = time.monotonic()
        if self._unanswered_since is None:
            self._unanswered_since = now - waited_s
        if now - self._unanswered_since > SILENT_S:
            self.lost(error)

    def lost(self, error: LensmountError) -> None:
        """It may not be asked any more, until its keeper has brought it back."""
        with self._wanted.changed:
            was_ready, self.ready = self.ready, False
            if was_ready:
                self.away_since_s = time.perf_counter()
            self.reason = error.message
            self._wanted.changed.notify_all()
        if was_ready:
            log.warning("the Triton at %s is away: %s", self.url, error)
        self.instance.give_up()
        self._wake.set()

    def close(self) -> None:
        """Stop looking after it, and let go."""
        self._stopped = True
        self._wake.set()
        self.instance.stop()
        if self._thread.ident is not None:
            self._thread.join()
        self.instance.close()

    def _keep(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._stopped:
            if self.ready:
                self._wake.wait(PING_S)
                self._wake.clear()
                self._ping()
                pause = FIRST_PAUSE_S
                continue
            try:
                self.connect()
                log.info("the Triton at %s is back", self.url)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                self.reason = known(error).message
                self._wake.wait(pause)
                self._wake.clear()
                pause = min(2 * pause, LONGEST_PAUSE_S)

    def _ping(self) -> None:
        if not self._stopped and self.ready and not self.instance.is_ready(PING_S):
            self.lost(UnavailableError("it does not answer, or not for this model", field="triton", value=self.url))
        for content_hash in [*self.refused][:1] if self.ready else ():
            self._bring(content_hash)

    def _drop_strangers(self) -> None:
        with self._wanted.changed:
            strangers = self._mounted - self._wanted.hashes
        self._mounted -= strangers
        with ThreadPoolExecutor(UNMOUNTERS) as threads:
            list(threads.map(self.instance.unmount, strangers))

    def _missing(self) -> set[ContentHash]:
        with self._wanted.changed:
            return self._wanted.hashes - self._mounted - set(self.refused)

    def _complete(self, description: Description) -> bool:
        """Make it ready if it has all that is wanted: nothing is wanted in between."""
        with self._wanted.changed:
            if self._missing():
                return False
            self.description = description
            self._unanswered_since = None
            self.ready, self.reason = True, ""
            self._wanted.changed.notify_all()
            return True

    def _bring(self, content_hash: ContentHash) -> None:
        """Mount what is wanted; what can not be mounted here is remembered with its error."""
        try:
            self.instance.mount(content_hash, self._wanted.archive(content_hash))
            self._mounted.add(content_hash)
            self.refused.pop(content_hash, None)
        except UnavailableError:
            raise
        except LensmountError as error:
            log.error("the Triton at %s can not mount %s: %s", self.url, content_hash[:12], error)
            self.refused[content_hash] = error

    def settle(self, content_hash: ContentHash, limit_s: float) -> None:
        """Wait until an adapter there is as fast as it gets, at most so long."""
        self.instance.wait_for(content_hash, (Place.SETTLED,), limit_s)
