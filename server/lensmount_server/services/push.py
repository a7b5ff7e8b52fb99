"""A stream that a client pushes: its messages become frames, its frames results."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from lensmount.errors import InvalidInputError
from lensmount.v1 import inference_pb2
from lensmount_adapters.pictures import decode_picture
from lensmount_server.frames import Frame, Still
from lensmount_server.services import convert
from lensmount_server.streams import Answerer, DropPolicy, Drops, Mailbox, Stream, StreamResult
from lensmount_server.video.decoder import PacketDecoder
from lensmount_server.video.raw import raw_frame

WAITING_FRAMES = 4
# It comes back with every result.
MAX_NAME = 200

PIXEL_FORMATS = {inference_pb2.PIXEL_FORMAT_RGB24: "rgb24", inference_pb2.PIXEL_FORMAT_BGR24: "bgr24"}

Request = inference_pb2.StreamInferRequest


class Unpacker(Protocol):
    """Turns one kind of message into frames. Blocks."""

    kind: str

    def frames(self, request: Request) -> list[Frame]:
        """The frames that this message completes."""
        ...

    def flush(self) -> list[Frame]:
        """The frames still inside the decoder."""
        ...

    def broken(self) -> int:
        """Packets so far that never became a frame."""
        ...


class PushedStream:
    """Feeds one client's messages into a mailbox and has its frames answered."""

    def __init__(self, name: str, unpacker: Unpacker, mailbox: Mailbox, stream: Stream) -> None:
        self.name = name
        self._unpacker = unpacker
        self._mailbox = mailbox
        self._stream = stream
        self._broken = 0

    async def feed(self, requests: AsyncIterator[Request]) -> None:
        """Take messages until the client ends its side; the client waits while the mailbox is full."""
        try:
            async for request in requests:
                self._check_kind(request)
                self._mailbox.account.add(received=1)
                await self._deliver(await asyncio.to_thread(self._unpacker.frames, request))
            await self._deliver(await asyncio.to_thread(self._unpacker.flush))
        finally:
            self._mailbox.close()

    def results(self) -> AsyncGenerator[StreamResult, None]:
        """Results in frame order."""
        return self._stream.results()

    def summary(self) -> inference_pb2.StreamSummary:
        """The account of the stream so far."""
        state = self._mailbox.account.state()
        return inference_pb2.StreamSummary(
            received=state.received,
            decoded=state.decoded,
            answered=state.answered,
            dropped=convert.drops(state.dropped),
        )

    def _check_kind(self, request: Request) -> None:
        kind = request.WhichOneof("message")
        if kind != self._unpacker.kind:
            fix = f"send `{self._unpacker.kind}` messages, or another codec in the config"
            raise InvalidInputError("this message does not fit the codec", field="message", value=kind, fix=fix)

    async def _deliver(self, frames: list[Frame]) -> None:
        broken, self._broken = self._unpacker.broken() - self._broken, self._unpacker.broken()
        if broken:
            self._mailbox.lose(Drops(decode=broken))
        for frame in frames:
            await self._mailbox.offer(frame)


class _Packets:
    kind = "packet"

    def __init__(self, decoder: PacketDecoder) -> None:
        self._decoder = decoder

    def frames(self, request: Request) -> list[Frame]:
        packet = request.packet
        return self._decoder.decode(packet.data, packet.pts_ns, packet.dts_ns, packet.capture_time_ns)

    def flush(self) -> list[Frame]:
        return self._decoder.flush()

    def broken(self) -> int:
        return self._decoder.broken


class _Stills:
    """Messages that hold one whole frame each: encoded pictures or raw pixels."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._count = 0

    def frames(self, request: Request) -> list[Frame]:
        make = encoded if self.kind == "encoded" else raw
        frame = make(getattr(request, self.kind), index=self._count)
        self._count += 1
        return [frame]

    def flush(self) -> list[Frame]:
        return []

    def broken(self) -> int:
        return 0


def open_stream(config: inference_pb2.StreamConfig, answerer: Answerer) -> PushedStream:
    """Set a stream up from its config; raises InvalidInputError for a codec, a name or terms that can not be."""
    number = uuid.uuid4().hex[:8]
    name = _name(config.name) or f"push-{number}"
    policy = convert.POLICIES.get(config.drop_policy, DropPolicy.EVERY_FRAME)
    mailbox = Mailbox(policy, 1 if policy is DropPolicy.NEWEST else WAITING_FRAMES)
    # Two clients may give their streams one name: each still has its own share of the engine.
    terms = convert.terms(f"push-{number}", config.deadline_ms, config.priority, "config.")
    stream = Stream(name, mailbox, answerer, convert.wants(config.tasks), terms=terms)
    return PushedStream(name, _unpacker(config), mailbox, stream)


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


def _unpacker(config: inference_pb2.StreamConfig) -> Unpacker:
    if config.codec == inference_pb2.CODEC_H264:
        return _Packets(PacketDecoder("h264", config.extradata))
    if config.codec == inference_pb2.CODEC_H265:
        return _Packets(PacketDecoder("h265", config.extradata))
    if config.codec in (inference_pb2.CODEC_JPEG, inference_pb2.CODEC_RAW):
        return _Stills("encoded" if config.codec == inference_pb2.CODEC_JPEG else "raw")
    names = ", ".join(name for name, number in inference_pb2.Codec.items() if number)
    raise InvalidInputError("a codec is needed", field="config.codec", value=config.codec, fix=f"use one of {names}")
