"""Whatever stands in a request: one status with a sentence, and nobody else notices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from factories import pictures
from kserving import raw_request, stub
from lensmount.v1 import inference_pb2
from serving import Feed, Served, config, message, raw_frame, read, refused

SHOT = pictures(1, seed=2)[0]
SIZE = SHOT.size
Change = Callable[[Any], object]


@pytest.fixture(autouse=True)
async def another_stream(live: Served) -> AsyncIterator[None]:
    """A stream of somebody else, open before the bad request and answered after it."""
    feed = Feed(message(config(inference_pb2.CODEC_RAW, "surface")))
    call = live.inference.StreamInfer(feed)
    await read(call)
    yield
    feed.send(message(raw_frame(SHOT)), None)
    assert (await read(call)).result.frame_index == 0
    assert (await read(call)).summary.answered == 1


def shape(*sides: int) -> Change:
    return lambda request: _reshape(request, sides)


def _reshape(request: Any, sides: tuple[int, ...]) -> None:
    request.inputs[0].shape[:] = sides


def no_data(request: Any) -> None:
    request.ClearField("raw_input_contents")


def typed(**contents: Any) -> Change:
    def change(request: Any) -> None:
        no_data(request)
        for name, values in contents.items():
            getattr(request.inputs[0].contents, name).extend(values)

    return change


def both(request: Any) -> None:
    request.inputs[0].contents.uint_contents.extend([1, 2])


def twice(request: Any) -> None:
    request.inputs.append(request.inputs[0])


def another_input(name: str, datatype: str) -> Change:
    def change(request: Any) -> None:
        request.inputs.add(name=name, datatype=datatype, shape=[1])

    return change


def named(name: str, datatype: str = "UINT8", *sides: int, data: bytes | None = None) -> Change:
    def change(request: Any) -> None:
        request.inputs[0].name, request.inputs[0].datatype = name, datatype
        if sides:
            _reshape(request, sides)
        if data is not None:
            request.raw_input_contents[0] = data

    return change


def output(*names: str, **parameters: int) -> Change:
    def change(request: Any) -> None:
        for name in names:
            own = request.outputs.add(name=name)
            for key, value in parameters.items():
                own.parameters[key].int64_param = value

    return change


def set_parameter(name: str, kind: str, value: Any) -> Change:
    return lambda request: setattr(request.parameters[name], kind, value)


def of_input(name: str, kind: str, value: Any) -> Change:
    def change(request: Any) -> None:
        request.inputs[0].parameters["shared_memory_region"].string_param = "r"
        setattr(request.inputs[0].parameters[name], kind, value)

    return change


def of_input_alone(name: str, value: int) -> Change:
    return lambda request: setattr(request.inputs[0].parameters[name], "int64_param", value)


INVALID, LARGE, MISSING = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.NOT_FOUND,
)
BAD: dict[str, tuple[Change, grpc.StatusCode, str]] = {
    "no input": (lambda r: r.ClearField("inputs"), INVALID, "inputs"),
    "the input twice": (twice, INVALID, "inputs"),
    "two inputs": (another_input("encoded", "BYTES"), INVALID, "inputs"),
    "an unknown input": (named("image"), INVALID, "inputs"),
    "an input without a name": (named(""), INVALID, "inputs"),
    "floats for pixels": (named("picture", "FP32"), INVALID, "inputs.picture.datatype"),
    "no type": (named("picture", ""), INVALID, "inputs.picture.datatype"),
    "no shape": (shape(), INVALID, "inputs.picture.shape"),
    "without the number of pictures": (shape(*SHOT.shape), INVALID, "inputs.picture.shape"),
    "four channels": (shape(1, 90, 90, 4), INVALID, "inputs.picture.shape"),
    "channels first": (shape(1, 3, 90, 120), INVALID, "inputs.picture.shape"),
    "no pictures": (shape(0, 90, 120, 3), INVALID, "inputs.picture.shape"),
    "a side below nothing": (shape(1, -90, -120, 3), INVALID, "inputs.picture.shape"),
    "any side": (shape(-1, -1, -1, 3), INVALID, "inputs.picture.shape"),
    "257 pictures": (shape(257, 1, 1, 3), INVALID, "inputs.picture.shape"),
    "2**62 pictures": (shape(2**62, 2**62, 2**62, 3), INVALID, "inputs.picture.shape"),
    "2**62 wide": (shape(1, 1, 2**62, 3), LARGE, "width"),
    "more than a message": (shape(256, 1000, 1000, 3), LARGE, "inputs.picture.shape"),
    "a thousand sides": (shape(*[1] * 1000), INVALID, "inputs.picture.shape"),
    "a strip": (named("picture", "UINT8", 1, 16_000, 1, 3, data=bytes(48_000)), INVALID, "picture"),
    "a byte short": (named("picture", data=bytes(SIZE - 1)), INVALID, "inputs.picture"),
    "a byte too many": (named("picture", data=bytes(SIZE + 1)), INVALID, "inputs.picture"),
    "no bytes": (named("picture", data=b""), INVALID, "inputs.picture"),
    "no data": (no_data, INVALID, "inputs.picture.contents"),
    "data in two ways": (both, INVALID, "inputs.picture"),
    "data twice": (lambda r: r.raw_input_contents.append(b""), INVALID, "inputs.picture"),
    "too few numbers": (typed(uint_contents=[1]), INVALID, "inputs.picture.contents"),
    "numbers of another type": (typed(int_contents=[1] * SIZE), INVALID, "inputs.picture.contents"),
    "numbers of two types": (typed(uint_contents=[1] * SIZE, fp32_contents=[1.0]), INVALID, "inputs.picture.contents"),
    "numbers that are no pixels": (typed(uint_contents=[256] * SIZE), INVALID, "inputs.picture.contents"),
    "a file that is none": (named("encoded", "BYTES", 1, data=b"\4\0\0\0abcd"), INVALID, "inputs.encoded"),
    "a string without its length": (named("encoded", "BYTES", 1, data=b"\4\0"), INVALID, "inputs.encoded"),
    "a string beyond the end": (named("encoded", "BYTES", 1, data=b"\5\0\0\0abcd"), INVALID, "inputs.encoded"),
    "a string of 4 GiB": (named("encoded", "BYTES", 1, data=b"\xff\xff\xff\xffabcd"), INVALID, "inputs.encoded"),
    "a string too many": (named("encoded", "BYTES", 1, data=b"\0\0\0\0" * 2), INVALID, "inputs.encoded"),
    "a string too few": (named("encoded", "BYTES", 2, data=b"\0\0\0\0"), INVALID, "inputs.encoded"),
    "files in two columns": (named("encoded", "BYTES", 1, 2), INVALID, "inputs.encoded.shape"),
    "values of another size": (
        named("pixel_values", "FP32", 1, 3, 8, 8, data=bytes(768)), INVALID, "inputs.pixel_values.shape",
    ),
    "an unknown output": (output("probabilities"), INVALID, "outputs"),
    "an output twice": (output("scores", "labels", "scores"), INVALID, "outputs"),
    "four outputs": (output("scores", "labels", "scores", "labels"), INVALID, "outputs"),
    "classes of labels": (output("labels", classification=1), INVALID, "outputs.labels.classification"),
    "no classes": (output("scores", classification=0), INVALID, "outputs.scores.classification"),
    "a size in no region": (
        output("scores", shared_memory_byte_size=12), INVALID, "outputs.scores.shared_memory_byte_size",
    ),
    "an offset in no region": (
        output("labels", shared_memory_offset=0), INVALID, "outputs.labels.shared_memory_offset",
    ),
    "an input's offset in no region": (
        of_input_alone("shared_memory_offset", 0), INVALID, "inputs.picture.shared_memory_offset",
    ),
    "fewer classes than none": (output("scores", classification=-1), INVALID, "outputs.scores.classification"),
    "an unknown model": (lambda r: setattr(r, "model_name", "weather"), MISSING, "tasks"),
    "no model": (lambda r: r.ClearField("model_name"), MISSING, "model_name"),
    "too long a name": (lambda r: setattr(r, "model_name", "x" * 200), MISSING, "model_name"),
    "no alias behind the @": (lambda r: setattr(r, "model_name", "defect@"), MISSING, "model_name"),
    "an unknown version": (lambda r: setattr(r, "model_version", "77"), MISSING, "adapter"),
    "the largest version": (lambda r: setattr(r, "model_version", "9999999999"), MISSING, "adapter"),
    "version 0": (lambda r: setattr(r, "model_version", "0"), MISSING, "model_version"),
    "a version of eleven digits": (lambda r: setattr(r, "model_version", "99999999999"), MISSING, "adapter"),
    "the last number that fits": (lambda r: setattr(r, "model_version", str(2**63 - 1)), MISSING, "adapter"),
    "a number that does not fit": (lambda r: setattr(r, "model_version", str(2**63)), INVALID, "model_version"),
    "a very long number": (lambda r: setattr(r, "model_version", "1" * 5000), INVALID, "model_version"),
    "no version": (lambda r: setattr(r, "model_version", "latest"), INVALID, "model_version"),
    "a priority below nothing": (set_parameter("priority", "int64_param", -1), INVALID, "parameters.priority"),
    "a priority beyond ours": (set_parameter("priority", "int64_param", 22), INVALID, "parameters.priority"),
    "a priority above all": (set_parameter("priority", "uint64_param", 2**63), INVALID, "parameters.priority"),
    "a priority in words": (set_parameter("priority", "string_param", "high"), INVALID, "parameters.priority"),
    "a timeout below nothing": (set_parameter("timeout", "int64_param", -1), INVALID, "parameters.timeout"),
    "a timeout in words": (set_parameter("timeout", "string_param", "soon"), INVALID, "parameters.timeout"),
    "a timeout in years": (set_parameter("timeout", "uint64_param", 2**64 - 1), INVALID, "parameters.timeout"),
    "a region without a size": (of_input("shared_memory_offset", "int64_param", 0), INVALID, "inputs.picture"),
    "a size below nothing": (of_input("shared_memory_byte_size", "int64_param", -1), INVALID, "inputs.picture"),
    "a size in words": (
        of_input("shared_memory_byte_size", "string_param", "1"), INVALID, "inputs.picture.shared_memory_byte_size",
    ),
    "a region by number": (
        of_input("shared_memory_region", "int64_param", 1), INVALID, "inputs.picture.shared_memory_region",
    ),
    "in memory and in the message": (
        of_input("shared_memory_byte_size", "int64_param", SIZE), INVALID, "inputs.picture",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_request(live: Served, name: str) -> None:
    change, code, field = BAD[name]
    request = raw_request([SHOT])
    assert (await stub(live).ModelInfer(request)).model_version == "1"
    change(request)
    error = await refused(stub(live).ModelInfer(request))
    assert (error.code, error.field) == (code, field), error
    assert " Fix: " in error.message


async def test_a_message_beyond_the_limit_and_bytes_that_are_none(live: Served) -> None:
    request = raw_request([SHOT])
    request.raw_input_contents[0] = bytes((32 << 20) + 1)
    assert (await refused(stub(live).ModelInfer(request))).code is LARGE
    call: Any = live.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    error = await refused(call(b"\xff\xff\xff"))
    assert (error.code, error.field) == (INVALID, "message")
    assert " Fix: " in error.message
