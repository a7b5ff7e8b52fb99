"""A stream that a client pushes: its messages become frames, its frames results.

Packets are decoded in a worker process: what a stranger sends never comes near FFmpeg in this one.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from lensmount.errors import InvalidInputError, LensmountError, TooLargeError
from lensmount.v1 import inference_pb2
from lensmount_adapters.pictures import decode_picture
from lensmount_server.frames import Frame, Still, Want
from lensmount_server.services import convert
from lensmount_server.sources.inbox import FeedInbox
from lensmount_server.sources.source import SourceAnswerer
from lensmount_server.streams import DropPolicy, Mailbox, Stream, StreamResult
from lensmount_server.video.decoder import Codec
from lensmount_server.video.raw import raw_frame
from lensmount_server.workers.messages import Looking, Plan, Pushing
from lensmount_server.workers.pool import WorkerPool
from lensmount_server.workers.remote import RemoteFeed, Wish

WAITING_FRAMES = 4
# It comes back with every result.
MAX_NAME = 200
MAX_EXTRADATA = 16_384

PIXEL_FORMATS = {inference_pb2.PIXEL_FORMAT_RGB24: "rgb24", inference_pb2.PIXEL_FORMAT_BGR24: "bgr24"}
CODECS: dict[int, Codec] = {inference_pb2.CODEC_H264: "h264", inference_pb2.CODEC_H265: "h265"}
STILLS = {inference_pb2.CODEC_JPEG: "encoded", inference_pb2.CODEC_RAW: "raw"}

Request = inference_pb2.StreamInferRequest


class PushedStream(ABC):
    """Takes one client's messages and has their frames answered."""

    def __init__(self, name: str, kind: str, stream: Stream) -> None:
        self.name = name
        self._kind = kind
        self._stream = stream
        self._received = 0

    async def feed(self, requests: AsyncIterator[Request]) -> None:
        """Take messages until the client ends its side; the client waits while too many frames do."""
        try:
            async for request in requests:
                self._check_kind(request)
                self._received += 1
                await self._take(request)
        finally:
            await self._finish()

    def results(self) -> AsyncGenerator[StreamResult, None]:
        """Results in frame order."""
        return self._stream.results()

    def error(self) -> LensmountError | None:
        """Why no more frames come, if that is not the client's doing."""
        return None

    def summary(self) -> inference_pb2.StreamSummary:
        """The account of the stream so far."""
        state = self._stream.account.state()
        return inference_pb2.StreamSummary(
            received=self._received,
            decoded=state.decoded,
            answered=state.answered,
            dropped=convert.drops(state.dropped),
        )

    @abstractmethod
    async def _take(self, request: Request) -> None:
        """One message of the right kind."""

    @abstractmethod
    async def _finish(self) -> None:
        """There are no more messages."""

    def _check_kind(self, request: Request) -> None:
        kind = request.WhichOneof("message")
        if kind != self._kind:
            fix = f"send `{self._kind}` messages, or another codec in the config"
            raise InvalidInputError("this message does not fit the codec", field="message", value=kind, fix=fix)


class _Packets(PushedStream):
    """H.264 and H.265 packets, decoded by a feed."""

    def __init__(self, name: str, stream: Stream, feed: RemoteFeed) -> None:
        super().__init__(name, "packet", stream)
        self._feed = feed

    def error(self) -> LensmountError | None:
        return self._feed.ended.result() if self._feed.ended.done() else None

    async def _take(self, request: Request) -> None:
        packet = request.packet
        await self._feed.push(packet.data, packet.pts_ns, packet.dts_ns, packet.capture_time_ns)

    async def _finish(self) -> None:
        self._feed.finish()


class _Stills(PushedStream):
    """Messages that hold one whole frame each: encoded pictures or raw pixels."""

    def __init__(self, name: str, kind: str, stream: Stream, mailbox: Mailbox) -> None:
        super().__init__(name, kind, stream)
        self._mailbox = mailbox
        self._count = 0

    async def _take(self, request: Request) -> None:
        make = encoded if self._kind == "encoded" else raw
        frame = await asyncio.to_thread(make, getattr(request, self._kind), self._count)
        self._count += 1
        await self._mailbox.offer(frame)

    async def _finish(self) -> None:
        self._mailbox.close()


@asynccontextmanager
async def open_stream(
    config: inference_pb2.StreamConfig, wants: Sequence[Want], answerer: SourceAnswerer, pool: WorkerPool
) -> AsyncIterator[PushedStream]:
    """A stream set up from its config, for the duration of a `with` block.

    Raises InvalidInputError or TooLargeError for a codec, its headers, a name or terms that can not be.
    """
    number = uuid.uuid4().hex[:8]
    name = _name(config.name) or f"push-{number}"
    policy = convert.POLICIES.get(config.drop_policy, DropPolicy.EVERY_FRAME)
    waiting = 1 if policy is DropPolicy.NEWEST else WAITING_FRAMES
    # Two clients may give their streams one name: each still has its own share of the engine.
    terms = convert.terms(f"push-{number}", config.deadline_ms, config.priority, "config.")
    if config.codec in STILLS:
        mailbox = Mailbox(policy, waiting)
        yield _Stills(name, STILLS[config.codec], Stream(name, mailbox, answerer, wants, terms=terms), mailbox)
        return
    plan = Plan(_pushing(config), Looking(tuple([want.max_fps for want in wants])), policy, waiting, WAITING_FRAMES)
    inbox = FeedInbox(lambda: Wish(answerer.preprocessings(wants), config.with_jpeg))
    try:
        async with pool.feed(plan, "clients") as feed:
            inbox.attach(feed)
            inbox.end()
            yield _Packets(name, Stream(name, inbox, answerer, wants, terms=terms), feed)
    finally:
        inbox.detach()


def raw(message: inference_pb2.RawFrame, index: int) -> Frame:
    """A raw frame; raises InvalidInputError or TooLargeError."""
    pixel_format = PIXEL_FORMATS.get(message.pixel_format, "")
    return raw_frame(message.width, message.height, pixel_format, message.data, index=index, pts_ns=message.pts_ns)


def encoded(message: inference_pb2.EncodedPicture, index: int) -> Frame:
    """A decoded still; raises InvalidInputError or TooLargeError."""
    start, now = time.perf_counter(), time.time_ns()
    pixels = decode_picture(message.data, field="encoded.data")
    return Frame(Still(pixels), index, message.pts_ns, now, (time.perf_counter() - start) * 1e3)


def _name(name: str) -> str:
    if len(name) > MAX_NAME or not name.isprintable():
        fix = f"use up to {MAX_NAME} printable characters, or none: then the server makes one"
        raise InvalidInputError("not a name for a stream", field="config.name", value=name, fix=fix)
    return name


def _pushing(config: inference_pb2.StreamConfig) -> Pushing:
    if config.codec not in CODECS:
        names = ", ".join(name for name, number in inference_pb2.Codec.items() if number)
        raise InvalidInputError(
            "a codec is needed", field="config.codec", value=config.codec, fix=f"use one of {names}"
        )
    if len(config.extradata) > MAX_EXTRADATA:
        value, fix = f"{len(config.extradata):,} bytes", f"send SPS and PPS alone, at most {MAX_EXTRADATA:,} bytes"
        raise TooLargeError("the codec headers are too large", field="config.extradata", value=value, fix=fix)
    return Pushing(CODECS[config.codec], config.extradata)
