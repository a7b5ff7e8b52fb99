"""What is said between lensmount and a Triton: it comes through whole, and what was damaged is an error."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensmount.errors import IncompatibleError, InvalidInputError, LensmountError, ServerError, UnavailableError
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.choice import Candidate
from lensmount_server.triton import messages
from lensmount_server.triton.wire import (
    HASHES,
    LOGITS,
    NO_ADAPTER,
    PROTOCOL,
    REPLY,
    REQUEST,
    Description,
    Expected,
    Fault,
    NotMountedError,
    Op,
    Reply,
    Request,
    Rows,
    read_logits,
    read_reply,
    read_request,
)

URL = "127.0.0.1:8001"
SEEN = Preprocessing(
    height=64, width=96, interpolation="bicubic", crop_pct=0.9, crop_mode="center", mean=(0, 0.5, 1), std=(1, 1, 0.5)
)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
frames = st.sets(st.integers(0, 63), min_size=1, max_size=8).map(lambda found: tuple(sorted(found)))
rows = st.builds(Rows, content_hash=hashes, frames=frames)
requests = st.builds(
    Request,
    id=st.integers(0, 1 << 62),
    op=st.sampled_from(Op),
    content_hash=hashes,
    rows=st.lists(rows, max_size=4).map(tuple),
    preprocessing=st.sampled_from([None, SEEN]),
)
expectations = st.lists(
    st.builds(Expected, hashes, st.integers(1, 5), st.integers(1, 7)), min_size=1, max_size=4, unique=True
)


def answered(expected: list[Expected]) -> dict[str, bytes]:
    """A right answer: each logit is its own number."""
    count = sum(each.rows * each.labels for each in expected)
    told = b"".join(bytes.fromhex(each.content_hash) for each in expected)
    return {LOGITS: struct.pack(f"<{count}f", *range(count)), HASHES: told}


@given(requests)
def test_a_request_comes_through_whole(request: Request) -> None:
    message = messages.ask(request)
    assert [tensor.name for tensor in message.inputs] == [REQUEST]
    assert read_request(message.raw_input_contents[0]) == request
    wanted = {REPLY, LOGITS, HASHES} if request.op is Op.RUN else {REPLY}
    assert {output.name for output in message.outputs} == wanted


@given(expectations)
def test_logits_of_any_number_of_adapters_come_apart(expected: list[Expected]) -> None:
    found = read_logits(answered(expected), expected, URL)
    assert [tuple(each.shape) for each in found] == [(each.rows, each.labels) for each in expected]
    assert torch.cat([each.reshape(-1) for each in found]).tolist() == list(range(sum(each.numel() for each in found)))


@given(expectations, st.data())
def test_whatever_is_missing_or_other_is_an_error(expected: list[Expected], data: st.DataObject) -> None:
    outputs = answered(expected)
    name = data.draw(st.sampled_from([LOGITS, HASHES]))
    whole = outputs[name]
    harms = ["nothing", "empty", "short", "long"] + ([] if name == LOGITS else ["bit", "order"])
    match data.draw(st.sampled_from(harms)):
        case "nothing":
            del outputs[name]
        case "empty":
            outputs[name] = b""
        case "short":
            outputs[name] = whole[: data.draw(st.integers(0, len(whole) - 1))]
        case "long":
            outputs[name] = whole + data.draw(st.binary(min_size=1, max_size=40))
        case "bit":
            place = data.draw(st.integers(0, len(whole) - 1))
            outputs[name] = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        case "order":
            outputs[name] = whole[32:] + whole[:32]
    if outputs.get(name) != whole:
        with pytest.raises(ServerError) as caught:
            read_logits(outputs, expected, URL)
        assert (caught.value.field, caught.value.value) == ("triton", URL)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_no_answer(number: float) -> None:
    expected = [Expected("ab" * 32, 1, 2)]
    with pytest.raises(ServerError, match="NaN or infinity"):
        read_logits({**answered(expected), LOGITS: struct.pack("<2f", 1, number)}, expected, URL)


def test_a_description_comes_through_with_what_was_not_measured() -> None:
    slow = Candidate(
        engine="torch", precision="bf16", one_row_ms=float("inf"), eight_rows_ms=float("inf"), error=float("nan")
    )
    described = Description(
        backbone="b", fingerprint="f", segments=3, device="cpu", engine="torch", precision="fp32", reason="r",
        candidates=(slow,), batch_ms={1: 2.5, 8: 10.0}, batch_sizes=(1, 8), mounted=("ab" * 32,),
    )  # fmt: skip
    reply = Reply(id=1, boot="x", description=described)
    found = read_reply({REPLY: reply.model_dump_json().encode()}, Request(id=1, op=Op.DESCRIBE), URL).description
    assert found is not None
    assert found.model_dump_json() == described.model_dump_json()
    assert found.batch_ms == {1: 2.5, 8: 10.0}


@given(st.binary(max_size=60))
def test_bytes_that_are_no_reply_or_request_are_errors(data: bytes) -> None:
    with pytest.raises(ServerError):
        read_reply({REPLY: data}, Request(id=1, op=Op.STATE), URL)
    with pytest.raises(InvalidInputError):
        read_request(data)


def reply(**facts: object) -> dict[str, bytes]:
    return {REPLY: Reply.model_validate({"id": 7, "boot": "x", **facts}).model_dump_json().encode()}


def test_a_reply_to_another_request_is_an_error() -> None:
    asked = Request(id=7, op=Op.RUN)
    assert read_reply(reply(), asked, URL).boot == "x"
    with pytest.raises(ServerError, match="request 7 came for 8"):
        read_reply(reply(), Request(id=8, op=Op.RUN), URL)
    with pytest.raises(ServerError, match="not a reply"):
        read_reply({}, asked, URL)


def test_another_protocol_is_told_on_both_sides() -> None:
    with pytest.raises(IncompatibleError, match=f"protocol {PROTOCOL + 1}"):
        read_reply(reply(protocol=PROTOCOL + 1), Request(id=7, op=Op.RUN), URL)
    with pytest.raises(IncompatibleError, match=f"protocol {PROTOCOL}"):
        read_request(Request(id=1, op=Op.RUN, protocol=PROTOCOL + 1).model_dump_json().encode())


def test_errors_arrive_as_what_they_were() -> None:
    asked = Request(id=7, op=Op.MOUNT)
    sent = IncompatibleError("other weights", field="package", value="abc", fix="train again")
    with pytest.raises(IncompatibleError) as caught:
        read_reply(reply(fault=Fault.of(sent)), asked, URL)
    assert str(caught.value) == str(sent)
    for kind in ("NoSuchError", "grpc", "LensmountError"):
        with pytest.raises(LensmountError):
            read_reply(reply(fault=Fault(kind=kind, message="?")), asked, URL)
    with pytest.raises(NotMountedError) as cold:
        read_reply(reply(fault=Fault(kind=NO_ADAPTER, cold=("ab" * 32,))), asked, URL)
    assert isinstance(cold.value, UnavailableError)
