"""One feed inside a worker: what is read or pushed on one side, frames handed over on the other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from lensmount.errors import ServerError
from lensmount_server.video.account import Account
from lensmount_server.video.mailbox import Mailbox
from lensmount_server.video.open import open_reader
from lensmount_server.video.reader import Reader
from lensmount_server.video.timeline import Timeline
from lensmount_server.workers.block import PACKET_AT, Block, Tally
from lensmount_server.workers.handing import Gaze, Handing
from lensmount_server.workers.intake import Intake
from lensmount_server.workers.messages import (
    Began,
    Closed,
    Ended,
    Looking,
    Next,
    Packet,
    Plan,
    Prepare,
    Pushing,
    Report,
    Took,
    words,
)
from lensmount_server.workers.reading import PushReader

logger = logging.getLogger(__name__)


class Feed:
    """Two threads that run from its construction until the video ends or `close`; it tells all of it through `send`."""

    def __init__(self, number: int, plan: Plan, block: Block, send: Callable[[Report], None]) -> None:
        self._number = number
        self._block = block
        self._send = send
        tally = Tally(block)
        gaze = Gaze(plan.looking)
        self._mailbox = Mailbox(plan.policy, plan.queue_size, Account(tally.account))
        self._reader = self._open(plan, tally)
        self._reader.want(gaze.max_fps)
        self._handing = Handing(number, self._mailbox, block, gaze, plan.in_flight + 1)
        self._intake = Intake(self._reader, self._mailbox, tally, began=self._tell_began, ended=self._handing.no_more)
        runs = (("read", self._intake.run), ("hand", self._hand))
        self._threads = [threading.Thread(target=run, name=f"{name}-{number}", daemon=True) for name, run in runs]
        for thread in self._threads:
            thread.start()

    def ask(self, request: Next) -> None:
        """Have the next frame handed over, as soon as there is one."""
        self._handing.ask(request)

    def prepare(self, request: Prepare) -> None:
        """Prepare a frame that was handed over in another way."""
        self._send(self._handing.prepare(request))

    def look(self, looking: Looking) -> None:
        """Look at frames in another way from now on."""
        self._handing.gaze = Gaze(looking)
        self._reader.want(self._handing.gaze.max_fps)

    def push(self, packet: Packet) -> None:
        """Decode a pushed packet, which lies in the block."""
        if isinstance(self._reader, PushReader):
            self._reader.push(packet, bytes(self._block.read(PACKET_AT, packet.size)))

    def close(self) -> None:
        """Stop both threads; `Closed` is told when they are gone."""
        self._reader.stop()
        self._mailbox.close()
        self._handing.stop()
        threading.Thread(target=self._join, name=f"close-{self._number}", daemon=True).start()

    def _open(self, plan: Plan, tally: Tally) -> Reader | PushReader:
        video = plan.video
        if isinstance(video, Pushing):
            return PushReader(video, lambda: self._send(Took(self._number)), tally.busy)
        timeline = Timeline(plan.first_index, plan.last_pts_ns)
        return open_reader(
            video.address,
            loop=video.loop,
            pace=video.pace,
            effort=video.effort,
            options=video.options,
            timeline=timeline,
        )

    def _tell_began(self) -> None:
        self._send(Began(self._number, self._reader.codec))

    def _hand(self) -> None:
        try:
            while (handed := self._handing.handed()) is not None:
                self._send(handed)
        except Exception:  # a defect here must end the feed with a reason, not leave its source waiting
            logger.exception("%s failed", threading.current_thread().name)
            self._reader.stop()
            self._send(Ended(self._number, words(ServerError("a defect in the decoder", fix="look into the log"))))
            return
        self._send(Ended(self._number, words(self._intake.error)))

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
        self._block.close()
        self._send(Closed(self._number))
