"""The server's hand on a feed in a worker process: one coroutine asks for frames, one may push packets."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lensmount.errors import LensmountError, TooLargeError, UnavailableError
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import Frame
from lensmount_server.video.account import Drops
from lensmount_server.video.mailbox import Parcel
from lensmount_server.workers.block import FRAME_AT, LATER_AT, PACKET_AT, PACKET_BYTES, Block, Counters
from lensmount_server.workers.messages import (
    Began,
    Close,
    Closed,
    Ended,
    Handed,
    Look,
    Looking,
    Next,
    Open,
    Order,
    Packet,
    Plan,
    Prepare,
    Prepared,
    Report,
    Took,
    error_of,
)

# A picture that was not sent along is asked for; a worker that does not answer in this time is about to be ended.
LATER_S = 10.0


class WorkerDiedError(UnavailableError):
    """The process that decoded it ended."""


@dataclass(frozen=True)
class Wish:
    """What shall come with the next frame: prepared pictures, and the frame as JPEG."""

    preprocessings: tuple[Preprocessing, ...] = ()
    jpeg: bool = False


@dataclass(frozen=True, eq=False)
class HandedPicture:
    """A picture that stayed in its worker; what was asked for came along: `ready` and `encoded` (JPEG, or None)."""

    height: int
    width: int
    ready: Mapping[Preprocessing, Tensor]
    encoded: bytes | None
    later: Callable[[Preprocessing], Awaitable[Tensor]] = field(repr=False)

    async def prepared(self, wanted: Collection[Preprocessing]) -> Mapping[Preprocessing, Tensor]:
        """What came along, and what its worker is asked for now. Raises as that does, and UnavailableError."""
        missing = [each for each in wanted if each not in self.ready]
        return {**self.ready, **{each: await self.later(each) for each in missing}} if missing else self.ready

    def prepare(self, preprocessing: Preprocessing) -> Tensor:
        """uint8 (3, height, width), if it came along. Raises UnavailableError."""
        if preprocessing not in self.ready:
            raise UnavailableError("this picture stayed where it was decoded", fix="await `prepared`")
        return self.ready[preprocessing]

    def jpeg(self) -> bytes:
        """The frame as JPEG; b"" if nobody asked for it when it came."""
        return self.encoded or b""


class RemoteFeed:
    """A feed from `open` to `close`. It belongs to one event loop.

    `ended` holds, once no more frames come, the error that ended it, or None.
    """

    def __init__(self, number: int, plan: Plan, block: Block, send: Callable[[Order], None]) -> None:
        self.number = number
        self._block = block
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._looking = plan.looking
        self._wish = Wish()
        self._next: asyncio.Future[tuple[int, Parcel] | None] | None = None
        self._took: asyncio.Future[None] | None = None
        self._prepared: asyncio.Future[Tensor] | None = None
        self._preparing: Prepare | None = None
        self._tickets = itertools.count()
        self._one_by_one = asyncio.Lock()
        self._last: Counters | None = None
        self.handed = 0
        self.codec = ""
        self.began: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[LensmountError | None] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        send(Open(number, plan))

    def counters(self) -> Counters:
        """What the worker has counted, also after its end."""
        return self._last or self._block.counters()

    async def next(self, wish: Wish, put_off: tuple[int, ...] = ()) -> Parcel | None:
        """The next frame; None when no more come. What is cancelled here is got by the next call."""
        if self._next is None:
            if self.ended.done():
                return None
            self._wish = wish
            self._next = self._loop.create_future()
            looking = self._looking.edition
            self._send(Next(self.number, wish.preprocessings, looking, put_off, wish.jpeg))
        arrived = await asyncio.shield(self._next)
        self._next = None
        if arrived is None:
            return None
        self.handed += 1
        edition, parcel = arrived
        if edition != self._looking.edition:  # it was chosen for tasks that may not be asked any more
            return replace(parcel, due=tuple(range(len(self._looking.rates))))
        return parcel

    def look(self, looking: Looking) -> None:
        """Looks at frames in another way from now on."""
        self._looking = replace(looking, edition=self._looking.edition + 1)
        self._send(Look(self.number, self._looking))

    async def push(self, data: bytes, pts_ns: int, dts_ns: int, capture_time_ns: int) -> None:
        """Has a packet decoded; returns when its frames wait or are gone.

        Raises TooLargeError, and the error that ended the feed.
        """
        if len(data) > PACKET_BYTES:
            fix = f"send at most {PACKET_BYTES:,} bytes a packet"
            raise TooLargeError("the packet is too large", field="packet.data", value=f"{len(data):,} bytes", fix=fix)
        self._block.write(PACKET_AT, data)
        self._took = self._loop.create_future()
        self._send(Packet(self.number, len(data), pts_ns, dts_ns, capture_time_ns))
        either: list[asyncio.Future[Any]] = [self._took, self.ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._took.done():
            raise self.ended.result() or UnavailableError("the stream has ended")

    def finish(self) -> None:
        """There are no more packets: `ended` comes when the last frame was handed over."""
        self._send(Packet(self.number, last=True))

    async def close(self, bound_s: float) -> bool:
        """Stops it; False when its threads have not ended within `bound_s` seconds: something in it hangs."""
        if not self.closed.done():
            self._send(Close(self.number))
            await asyncio.wait([self.closed], timeout=bound_s)
        self._end(None)
        return self.closed.done()

    def abandon(self, error: LensmountError) -> None:
        """It hangs: nothing more comes of it."""
        self._last = self._block.counters()
        self._end(error)

    def fail(self, error: LensmountError) -> None:
        """The worker is gone."""
        self._end(error)
        if not self.closed.done():
            self.closed.set_result(None)

    def release(self) -> None:
        """Keeps the counters and lets go of the memory; call it once, when nobody writes there any more."""
        self._last = self.counters()
        self._block.forget()
        self._block.close()

    def told(self, report: Report) -> None:
        """What the worker says of this feed."""
        match report:
            case Handed():
                self._settle((report.edition, self._parcel(report)))
            case Began():
                self.codec = report.codec
                if not self.began.done():
                    self.began.set_result(None)
            case Took():
                if self._took is not None and not self._took.done():
                    self._took.set_result(None)
            case Prepared():
                self._settle_later(report)
            case Ended():
                self._end(error_of(report.error))
            case Closed():
                if not self.closed.done():
                    self.closed.set_result(None)

    def _end(self, error: LensmountError | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error)
        self._settle(None)
        if self._prepared is not None and not self._prepared.done():
            self._prepared.set_exception(UnavailableError("the frame is gone with its source"))

    def _settle(self, arrived: tuple[int, Parcel] | None) -> None:
        if self._next is not None and not self._next.done():
            self._next.set_result(arrived)

    def _parcel(self, handed: Handed) -> Parcel:
        ready, at = {}, FRAME_AT
        for preprocessing in self._wish.preprocessings[: handed.prepared]:
            ready[preprocessing] = self._tensor(at, preprocessing)
            at += ready[preprocessing].nbytes
        later = functools.partial(self._later, handed.index, error_of(handed.error))
        encoded = bytes(self._block.read(at, handed.jpeg)) if self._wish.jpeg else None
        picture = HandedPicture(handed.height, handed.width, ready, encoded, later)
        frame = Frame(picture, handed.index, handed.pts_ns, handed.capture_time_ns, handed.decode_ms)
        return Parcel(frame, Drops(*handed.lost), handed.due, handed.still)

    def _tensor(self, at: int, preprocessing: Preprocessing) -> Tensor:
        shape = (3, preprocessing.height, preprocessing.width)
        size = 3 * preprocessing.height * preprocessing.width
        return torch.frombuffer(self._block.read(at, size), dtype=torch.uint8).view(shape)

    async def _later(self, index: int, error: LensmountError | None, preprocessing: Preprocessing) -> Tensor:
        if error is not None:
            raise error
        try:
            return await asyncio.wait_for(self._ask_later(index, preprocessing), LATER_S)
        except TimeoutError as timeout:
            raise UnavailableError("its decoder does not answer", field="frame", value=index) from timeout

    async def _ask_later(self, index: int, preprocessing: Preprocessing) -> Tensor:
        async with self._one_by_one:
            if self.closed.done():
                raise UnavailableError("the frame is gone with its source", field="frame", value=index)
            self._preparing = Prepare(self.number, index, preprocessing, next(self._tickets))
            self._prepared = self._loop.create_future()
            self._send(self._preparing)
            return await self._prepared

    def _settle_later(self, report: Prepared) -> None:
        """Takes the answer to the question that waits; one that came too late is for a question that nobody has."""
        asked, waiting = self._preparing, self._prepared
        if asked is None or waiting is None or waiting.done() or asked.ticket != report.ticket:
            return
        error = error_of(report.error)
        if error is None:
            waiting.set_result(self._tensor(LATER_AT, asked.preprocessing))
        else:
            waiting.set_exception(error)
