"""The thread of a feed that decodes: from a reader into the mailbox, with every loss told to the account."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from lensmount.errors import LensmountError, ServerError
from lensmount_server.frames import Frame
from lensmount_server.video.account import Drops
from lensmount_server.video.mailbox import Mailbox
from lensmount_server.video.reader import Reader
from lensmount_server.workers.block import Tally
from lensmount_server.workers.reading import PushReader

logger = logging.getLogger(__name__)


class Intake:
    """Runs until the video ends, its mailbox is closed or its reader is stopped.

    `began` is called with the first frame, `ended` when no frame comes any more and the mailbox is closed; `error` then
    says why.
    """

    def __init__(
        self,
        reader: Reader | PushReader,
        mailbox: Mailbox,
        tally: Tally,
        *,
        began: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self.error: LensmountError | None = None
        self._reader = reader
        self._mailbox = mailbox
        self._tally = tally
        self._began: Callable[[], None] | None = began
        self._ended = ended
        self._told_broken = 0

    def run(self) -> None:
        """The whole life of it."""
        try:
            self._deliver()
        except LensmountError as known:
            self.error = known
        except Exception:  # a defect here must end the feed with a reason, not leave it waiting
            logger.exception("%s failed", threading.current_thread().name)
            self.error = ServerError("a defect in the reader", fix="look into the server's log")
        self._tally.update(busy_ns=0, skipped=self._reader.skipped)
        self._tell_broken()
        self._mailbox.close()
        self._ended()

    def _deliver(self) -> None:
        with contextlib.closing(self._reader.frames()) as frames:
            while True:
                if not isinstance(self._reader, PushReader):  # which tells it itself, and waits for its client
                    self._tally.busy(True)
                frame = next(frames, None)
                if frame is None:
                    return
                self._note(frame)
                if not self._mailbox.put(frame):
                    return

    def _note(self, frame: Frame) -> None:
        self._tally.update(
            busy_ns=0,
            pts_ns=frame.pts_ns,
            width=frame.picture.width,
            height=frame.picture.height,
            frame_time_ns=time.time_ns(),
            skipped=self._reader.skipped,
        )
        self._tell_broken()
        if self._began is not None:
            self._began()
            self._began = None

    def _tell_broken(self) -> None:
        broken = self._reader.broken - self._told_broken
        if broken:
            self._told_broken += broken
            self._mailbox.lose(Drops(decode=broken))
