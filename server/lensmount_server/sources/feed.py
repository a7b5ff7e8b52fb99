"""The thread that reads a video into a mailbox."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

from lensmount.errors import LensmountError, ServerError
from lensmount_server.frames import Frame
from lensmount_server.video.account import Drops
from lensmount_server.video.mailbox import Mailbox
from lensmount_server.video.reader import Reader

logger = logging.getLogger(__name__)


class Feed:
    """One connection of one source: a thread that reads until the video ends or `stop` is called.

    `on_frame` is called in that thread, before the frame is delivered.
    """

    def __init__(self, name: str, reader: Reader, mailbox: Mailbox, on_frame: Callable[[Frame], None]) -> None:
        self._reader = reader
        self._mailbox = mailbox
        self._on_frame = on_frame
        self._told = 0
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[LensmountError | None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._pump, name=f"source-{name}", daemon=True)

    def start(self) -> None:
        """Starts reading."""
        self._thread.start()

    async def end(self) -> None:
        """Returns when the video has ended; raises the LensmountError that ended it otherwise."""
        await asyncio.wait([self._finished])
        error = self._finished.result()
        if error is not None:
            raise error

    async def stop(self, bound_s: float) -> bool:
        """Asks the thread to end; True when it did within `bound_s` seconds.

        Close the mailbox before, so that the thread does not wait for room in it. A
        thread that waits for a silent camera ends by itself when FFmpeg's time is up.
        """
        self._reader.stop()
        await asyncio.wait([self._finished], timeout=bound_s)
        if not self._finished.done():
            logger.warning("%s still waits for its camera; it will end by itself", self._thread.name)
            return False
        self._thread.join()
        return True

    def _pump(self) -> None:
        error: LensmountError | None = None
        try:
            self._deliver()
        except LensmountError as known:
            error = known
        except Exception:  # a defect here must end the source with a reason, not leave it waiting
            logger.exception("%s failed", self._thread.name)
            error = ServerError("a defect in the reader", fix="look into the server's log")
        self._tell_broken()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._finished.set_result, error)

    def _deliver(self) -> None:
        with contextlib.closing(self._reader.frames()) as frames:
            for frame in frames:
                self._on_frame(frame)
                self._tell_broken()
                if not self._mailbox.put(frame):
                    return
                self._mailbox.account.add(received=1)

    def _tell_broken(self) -> None:
        broken = self._reader.broken - self._told
        if broken:
            self._told += broken
            self._mailbox.account.add(received=broken)
            self._mailbox.lose(Drops(decode=broken))
