"""The thread of a feed that hands frames over: the newest when asked, turned, cut and prepared, in shared memory."""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from dataclasses import astuple, replace
from typing import Literal, cast

from torch import Tensor

from lensmount.errors import LensmountError, UnavailableError
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import OpenPicture, Picture
from lensmount_server.scheduling import TurnTable
from lensmount_server.video.account import Drops
from lensmount_server.video.mailbox import Mailbox, Parcel
from lensmount_server.video.motion import MotionGate
from lensmount_server.video.view import View
from lensmount_server.workers.block import FRAME_AT, FRAME_BYTES, LATER_AT, Block
from lensmount_server.workers.messages import Handed, Looking, Next, Prepare, Prepared, words

_RATE = Drops(rate=1)


class Gaze:
    """How frames are looked at since the last change of it."""

    def __init__(self, looking: Looking) -> None:
        self.edition = looking.edition
        self.turns = TurnTable(looking.rates)
        self.view = View(looking.rotation, looking.region)
        self.gate = MotionGate(looking.gate)
        self.max_fps = 0.0 if 0.0 in looking.rates else max(looking.rates)


class Handing:
    """Answers `Next` with `Handed`, one at a time, until the mailbox is closed and empty or `stop`.

    The last `remembered` pictures may still be asked for in another form.
    """

    def __init__(self, feed: int, mailbox: Mailbox, block: Block, gaze: Gaze, remembered: int) -> None:
        self.gaze = gaze
        self._feed = feed
        self._mailbox = mailbox
        self._block = block
        self._asked: queue.SimpleQueue[Next | Literal["no more frames come"] | None] = queue.SimpleQueue()
        self._remember_at_most = remembered
        self._remembered: OrderedDict[int, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, request: Next) -> None:
        """Have the next frame handed over, as soon as there is one."""
        self._asked.put(request)

    def no_more(self) -> None:
        """The mailbox is closed: what waits in it is handed over, then it ends."""
        self._asked.put("no more frames come")

    def stop(self) -> None:
        """End without handing over what waits."""
        self._asked.put(None)

    def handed(self) -> Handed | None:
        """Waits for a request and a frame; None when there will be none."""
        while (request := self._asked.get()) is not None:
            if isinstance(request, Next):
                parcel = self._due(request)
                return self._hand(request, parcel) if parcel else None
            if not len(self._mailbox):
                return None
        return None

    def prepare(self, request: Prepare) -> Prepared:
        """Prepares a frame that was handed over in another way."""
        with self._lock:
            picture = self._remembered.get(request.index)
        try:
            if picture is None:
                raise UnavailableError("the frame is gone", field="frame", value=request.index)
            self._block.write(LATER_AT, _bytes(picture.prepare(request.preprocessing)))
        except LensmountError as error:
            return Prepared(self._feed, request.ticket, words(error))
        return Prepared(self._feed, request.ticket)

    def _due(self, request: Next) -> Parcel | None:
        """The next frame that is some task's turn."""
        if request.edition == self.gaze.edition:
            self.gaze.turns.give_back(request.put_off)
        lost = Drops()
        while (parcel := self._mailbox.take()) is not None:
            lost += parcel.lost
            frame, gaze = parcel.frame, self.gaze
            due = gaze.turns.due(frame.pts_ns, frame.capture_time_ns)
            if due:
                return replace(parcel, lost=lost, due=due)
            self._mailbox.account.add(dropped=_RATE)
            lost += _RATE
        return None

    def _hand(self, request: Next, parcel: Parcel) -> Handed:
        started = time.perf_counter()
        frame, gaze = parcel.frame, self.gaze
        picture = gaze.view.of(cast(OpenPicture, frame.picture))  # as all readers give it
        still = gaze.gate.is_still(picture, time.monotonic_ns())
        prepared, end, error = self._prepare(picture, () if still else request.preprocessings)
        jpeg = picture.jpeg() if request.jpeg else b""
        if end + len(jpeg) > FRAME_AT + FRAME_BYTES:
            jpeg = b""  # else what lies there from an earlier frame would be taken for it
        self._block.write(end, jpeg)
        self._remember(frame.index, picture)
        return Handed(
            feed=self._feed,
            index=frame.index,
            pts_ns=frame.pts_ns,
            capture_time_ns=frame.capture_time_ns,
            decode_ms=frame.decode_ms + (time.perf_counter() - started) * 1e3,
            width=picture.width,
            height=picture.height,
            prepared=prepared,
            jpeg=len(jpeg),
            still=still,
            edition=gaze.edition,
            due=parcel.due or (),
            lost=astuple(parcel.lost),
            error=words(error),
        )

    def _prepare(self, picture: Picture, wanted: tuple[Preprocessing, ...]) -> tuple[int, int, LensmountError | None]:
        """Writes what there is room for: how many of `wanted`, where they end, what was wrong with the next."""
        end = FRAME_AT
        for done, preprocessing in enumerate(wanted):
            size = 3 * preprocessing.height * preprocessing.width
            if end + size > FRAME_AT + FRAME_BYTES:
                return done, end, None
            try:
                end = self._block.write(end, _bytes(picture.prepare(preprocessing)))
            except LensmountError as error:
                return done, end, error
        return len(wanted), end, None

    def _remember(self, index: int, picture: Picture) -> None:
        with self._lock:
            self._remembered[index] = picture
            if len(self._remembered) > self._remember_at_most:
                self._remembered.popitem(last=False)


def _bytes(prepared: Tensor) -> memoryview:
    return prepared.numpy().data.cast("B")
