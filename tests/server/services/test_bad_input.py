"""Whatever a client sends: one status with field, value and fix, while the other streams go on."""

from __future__ import annotations

import asyncio
import hashlib
import io
import struct
import zlib
from collections.abc import AsyncIterator, Iterable

import pytest
from PIL import Image

from factories import pictures
from lensmount.archive import open_archive
from lensmount.errors import InvalidInputError, LensmountError, NotFoundError, TooLargeError
from lensmount.v1 import adapters_pb2, common_pb2, inference_pb2
from serving import Feed, Item, Kit, Served, config, kept, message, messages, raw_frame, read, refs, refused
from videos import encode, numbered

SHOT = pictures(1, seed=2)[0]
H264, H265, JPEG, RAW = (
    inference_pb2.CODEC_H264, inference_pb2.CODEC_H265, inference_pb2.CODEC_JPEG, inference_pb2.CODEC_RAW,
)  # fmt: skip
RGB = inference_pb2.PIXEL_FORMAT_RGB24


@pytest.fixture(autouse=True)
async def another_stream(live: Served) -> AsyncIterator[None]:
    """A stream of somebody else, open before the bad input and answered after it, without a hole."""
    feed = Feed(message(config(RAW, "surface")))
    call = live.inference.StreamInfer(feed)
    await read(call)
    feed.send(message(raw_frame(SHOT)))
    assert (await read(call)).result.frame_index == 0
    yield
    feed.send(message(raw_frame(SHOT)), None)
    assert (await read(call)).result.frame_index == 1
    summary = (await read(call)).summary
    assert (summary.received, summary.answered, summary.dropped) == (2, 2, common_pb2.Drops())


def jpeg() -> bytes:
    data = io.BytesIO()
    Image.fromarray(SHOT).save(data, "JPEG")
    return data.getvalue()


def large_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header names other sides (its start-of-frame marker, ITU-T T.81 B.2.2)."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def large_png(width: int, height: int) -> bytes:
    """A PNG that begins well, with sides of its own."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(100))
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, body)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


PICTURES: dict[str, tuple[bytes, type[LensmountError], str]] = {
    "no bytes": (b"", InvalidInputError, "0 bytes"),
    "text": (b"this is no picture", InvalidInputError, "18 bytes"),
    "a JPEG in name only": (b"\xff\xd8\xff\xe0" + bytes(500), InvalidInputError, "504 bytes"),
    "half a JPEG": (jpeg()[: len(jpeg()) // 2], InvalidInputError, "bytes"),
    "a GIF": (b"GIF89a" + bytes(40), InvalidInputError, "46 bytes"),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", InvalidInputError, "bytes"),
    "a PNG of 100,000 a side": (large_png(100_000, 100_000), TooLargeError, "10000000000 pixels"),
    "a PNG of 100,000 wide": (large_png(100_000, 1), TooLargeError, "100000x1"),
    "a PNG without pixels": (large_png(0, 10), InvalidInputError, ""),
    "a JPEG of 65,535 a side": (large_jpeg(65_535, 65_535), TooLargeError, "4294836225 pixels"),
    "a JPEG without pixels": (large_jpeg(0, 0), InvalidInputError, ""),
}


def check(error: LensmountError, kind: type[LensmountError], field: str, value: str) -> None:
    assert type(error) is kind, error
    assert error.field == field
    assert value in error.value
    assert error.fix


@pytest.mark.parametrize("name", PICTURES)
async def test_a_picture_that_is_none(live: Served, name: str) -> None:
    data, kind, value = PICTURES[name]
    picture = inference_pb2.EncodedPicture(data=data)
    request = inference_pb2.InferRequest(tasks=refs("defect"), encoded=picture)
    check(await refused(live.inference.Infer(request)), kind, "encoded.data", value)
    good = inference_pb2.EncodedPicture(data=jpeg())
    call = live.inference.StreamInfer(messages(config(JPEG, "defect"), [good, picture, good]))
    check(await refused(call), kind, "encoded.data", value)


def raw(width: int, height: int, size: int, pixel_format: inference_pb2.PixelFormat.ValueType = RGB) -> Item:
    return inference_pb2.RawFrame(width=width, height=height, pixel_format=pixel_format, data=bytes(size))


FRAMES: dict[str, tuple[Item, type[LensmountError], str, str]] = {
    "no width": (raw(0, 10, 0), InvalidInputError, "width", "0"),
    "no height": (raw(10, 0, 0), InvalidInputError, "height", "0"),
    "100,000 wide": (raw(100_000, 1, 300_000), TooLargeError, "width", "100000"),
    "100,000 high": (raw(1, 100_000, 300_000), TooLargeError, "height", "100000"),
    "100,000 a side": (raw(100_000, 100_000, 30), TooLargeError, "width", "100000"),
    "2**32 - 1 a side": (raw(2**32 - 1, 2**32 - 1, 3), TooLargeError, "width", "4294967295"),
    "many pixels in all": (raw(16_384, 16_384, 3), TooLargeError, "width*height", "16384x16384"),
    "a byte short": (raw(10, 10, 299), InvalidInputError, "data", "299"),
    "a byte too many": (raw(10, 10, 301), InvalidInputError, "data", "301"),
    "no bytes": (raw(10, 10, 0), InvalidInputError, "data", "0"),
    "no format": (raw(10, 10, 300, inference_pb2.PIXEL_FORMAT_UNSPECIFIED), InvalidInputError, "pixel_format", ""),
    "a format of the future": (raw(10, 10, 300, 9), InvalidInputError, "pixel_format", ""),  # type: ignore[arg-type]
    "a strip": (raw(1, 16_000, 48_000), InvalidInputError, "picture", "1x16000"),
}


@pytest.mark.parametrize("name", FRAMES)
async def test_a_raw_frame_that_can_not_be(live: Served, name: str) -> None:
    frame, kind, field, value = FRAMES[name]
    assert isinstance(frame, inference_pb2.RawFrame)
    request = inference_pb2.InferRequest(tasks=refs("defect"), raw=frame)
    check(await refused(live.inference.Infer(request)), kind, field, value)
    good = raw_frame(SHOT)
    call = live.inference.StreamInfer(messages(config(RAW, "defect"), [good, frame, good]))
    check(await refused(call), kind, field, value)


def ref(task: str = "defect", alias: str = "", version: int = 0) -> common_pb2.TaskRef:
    return common_pb2.TaskRef(task=task, alias=alias, version=version)


def rated(max_fps: float) -> common_pb2.TaskRef:
    return common_pb2.TaskRef(task="defect", max_fps=max_fps)


TASKS: dict[str, tuple[list[common_pb2.TaskRef], type[LensmountError], str, str]] = {
    "none": ([], InvalidInputError, "tasks", "0"),
    "too many": ([ref(version=number) for number in range(1, 66)], InvalidInputError, "tasks", "65"),
    "one twice": ([ref(), ref("surface"), ref()], InvalidInputError, "tasks", "defect"),
    "one twice, by its default": ([ref(), ref(alias="live")], InvalidInputError, "tasks", "defect"),
    "without a name": ([ref("")], InvalidInputError, "tasks", ""),
    "one twice, at two rates": ([rated(1), rated(2)], InvalidInputError, "tasks", "defect"),
    "a rate below nothing": ([rated(-1)], InvalidInputError, "tasks", "-1 fps"),
    "a rate that is no number": ([rated(float("nan"))], InvalidInputError, "tasks", "nan fps"),
    "a rate without end": ([rated(float("inf"))], InvalidInputError, "tasks", "inf fps"),
    "a rate beyond cameras": ([rated(1e9)], InvalidInputError, "tasks", "1e+09 fps"),
    "a rate beyond patience": ([rated(1e-9)], InvalidInputError, "tasks", "1e-09 fps"),
    "unknown": ([ref("weather")], NotFoundError, "tasks", "weather"),
    "one of them unknown": ([ref(), ref("weather")], NotFoundError, "tasks", "weather"),
    "unknown alias": ([ref(alias="canary")], NotFoundError, "tasks", "defect@canary"),
    "unknown version": ([ref(version=9)], NotFoundError, "adapter", "defect:9"),
    "the largest version": ([ref(version=2**32 - 1)], NotFoundError, "adapter", "defect:4294967295"),
}


@pytest.mark.parametrize("name", TASKS)
async def test_tasks_that_can_not_be_answered(live: Served, name: str) -> None:
    tasks, kind, field, value = TASKS[name]
    request = inference_pb2.InferRequest(tasks=tasks, raw=raw_frame(SHOT))
    check(await refused(live.inference.Infer(request)), kind, field, value)
    wanted = inference_pb2.StreamConfig(codec=RAW, tasks=tasks)
    check(await refused(live.inference.StreamInfer(messages(wanted, [raw_frame(SHOT)]))), kind, field, value)


async def test_a_single_picture_has_no_rate(live: Served) -> None:
    request = inference_pb2.InferRequest(tasks=[rated(5)], raw=raw_frame(SHOT))
    check(await refused(live.inference.Infer(request)), InvalidInputError, "tasks", "defect")


async def test_a_request_without_a_picture(live: Served) -> None:
    error = await refused(live.inference.Infer(inference_pb2.InferRequest(tasks=refs("defect"))))
    assert (type(error), error.field, bool(error.fix)) == (InvalidInputError, "picture", True)


CONFIGS: dict[str, tuple[inference_pb2.StreamConfig, str, str]] = {
    "without codec": (config(inference_pb2.CODEC_UNSPECIFIED, "defect"), "config.codec", "0"),
    "a codec of the future": (config(77, "defect"), "config.codec", "77"),  # type: ignore[arg-type]
    "a name without an end": (config(RAW, "defect", name="x" * 1_000), "config.name", "xxx"),
    "a name of two lines": (config(RAW, "defect", name="a\nb"), "config.name", "a\nb"),
    "a deadline in days": (config(RAW, "defect", deadline_ms=90_000_000), "config.deadline_ms", "90000000"),
    "a priority above all": (config(RAW, "defect", priority=1000), "config.priority", "1000"),
    "a priority below all": (config(RAW, "defect", priority=-11), "config.priority", "-11"),
}


@pytest.mark.parametrize("name", CONFIGS)
async def test_a_config_that_can_not_be(live: Served, name: str) -> None:
    wanted, field, value = CONFIGS[name]
    error = await refused(live.inference.StreamInfer(messages(wanted, [raw_frame(SHOT)])))
    check(error, InvalidInputError, field, value)


async def sent(requests: Iterable[inference_pb2.StreamInferRequest]) -> AsyncIterator[inference_pb2.StreamInferRequest]:
    for request in requests:
        yield request


FIRST: dict[str, tuple[list[inference_pb2.StreamInferRequest], str]] = {
    "nothing": ([], "nothing"),
    "an empty message": ([inference_pb2.StreamInferRequest()], "an empty message"),
    "a frame": ([message(raw_frame(SHOT))], "raw"),
}


@pytest.mark.parametrize("name", FIRST)
async def test_a_stream_that_does_not_begin_with_its_config(live: Served, name: str) -> None:
    requests, value = FIRST[name]
    error = await refused(live.inference.StreamInfer(sent(requests)))
    check(error, InvalidInputError, "config", value)


@pytest.mark.parametrize("codec", [H264, H265, JPEG, RAW])
async def test_a_message_of_another_kind_than_the_codec(live: Served, codec: inference_pb2.Codec.ValueType) -> None:
    items: dict[str, Item | inference_pb2.StreamConfig] = {
        "packet": inference_pb2.VideoPacket(data=b"\0\0\1"),
        "encoded": inference_pb2.EncodedPicture(data=jpeg()),
        "raw": raw_frame(SHOT),
        "config": config(codec, "defect"),
    }
    fitting = {H264: "packet", H265: "packet", JPEG: "encoded", RAW: "raw"}[codec]
    for kind in items.keys() - {fitting}:
        requests = [message(config(codec, "defect")), message(items[kind])]
        check(await refused(live.inference.StreamInfer(sent(requests))), InvalidInputError, "message", kind)
    requests = [message(config(codec, "defect")), inference_pb2.StreamInferRequest()]
    error = await refused(live.inference.StreamInfer(sent(requests)))
    assert (type(error), error.field, bool(error.fix)) == (InvalidInputError, "message", True)


@pytest.mark.parametrize("codec", [H264, H265])
@pytest.mark.parametrize("data", [b"garbage " * 50, b"\0\0\0\1" + b"\xff" * 300, b""])
async def test_garbage_instead_of_video(live: Served, codec: inference_pb2.Codec.ValueType, data: bytes) -> None:
    packets = [inference_pb2.VideoPacket(data=data, pts_ns=number) for number in range(30)]
    error = await refused(live.inference.StreamInfer(messages(config(codec, "defect"), packets)))
    assert (type(error), error.field, bool(error.fix)) == (InvalidInputError, "packet", True)


async def test_another_codec_than_the_config_says(live: Served) -> None:
    coded, _ = encode([numbered(number) for number in range(12)], "h265")
    packets = [inference_pb2.VideoPacket(data=each.data, pts_ns=each.pts_ns) for each in coded]
    error = await refused(live.inference.StreamInfer(messages(config(H264, "defect"), packets)))
    assert (type(error), error.field, bool(error.fix)) == (InvalidInputError, "packet", True)


async def test_extradata_that_is_none(live: Served) -> None:
    coded, extradata = encode([numbered(number) for number in range(12)], global_header=True)
    packets = [inference_pb2.VideoPacket(data=each.data, pts_ns=each.pts_ns) for each in coded]
    for wrong in (b"garbage", extradata[::-1], b"\1" * 1000):
        error = await refused(live.inference.StreamInfer(messages(config(H264, "defect", extradata=wrong), packets)))
        assert (type(error), bool(error.field), bool(error.fix)) == (InvalidInputError, True, True)


@pytest.mark.parametrize("cut", [0.0, 0.5, 0.99])
async def test_a_package_that_is_cut_off(live: Served, kit: Kit, cut: float) -> None:
    with open_archive(kit.defect[1].folder) as archive:
        data = archive.file.read()
    data = data[: round(cut * len(data))] or b"x"
    header = adapters_pb2.RegisterAdapterHeader(
        size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), set_alias="live"
    )

    async def upload() -> AsyncIterator[adapters_pb2.RegisterAdapterRequest]:
        yield adapters_pb2.RegisterAdapterRequest(header=header)
        yield adapters_pb2.RegisterAdapterRequest(chunk=data)

    before = kept(live.data_dir)
    error = await refused(live.adapters.RegisterAdapter(upload()))
    check(error, InvalidInputError, "package", f"{len(data)} bytes")
    assert kept(live.data_dir) == before
    assert before.whole


async def test_many_bad_streams_at_once(live: Served) -> None:
    frames = [frame for frame, *_ in FRAMES.values()]
    calls = [live.inference.StreamInfer(messages(config(RAW, "defect"), [raw_frame(SHOT), bad])) for bad in frames]
    errors = await asyncio.gather(*map(refused, calls))
    assert {type(error) for error in errors} == {InvalidInputError, TooLargeError}
