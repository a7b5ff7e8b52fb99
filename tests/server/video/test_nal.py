from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmount_server.video.nal import Glimpse, Glimpser
from videos import annex_b, encode, numbered, write_clip

AVCC = b"\1\x64\0\x1f\xff"  # four bytes of length
PARAMETERS, MESSAGE = b"\x67\x64\0\x1f", b"\6\5" + bytes(9)
IDR, REFERRED, IDLE = b"\x65\x88", b"\x41\x9a", b"\x01\x9e"


def glimpser(extradata: bytes = b"", codec: str = "h264") -> Glimpser:
    context: Any = av.CodecContext.create(codec, "r")
    context.extradata = extradata
    return Glimpser(context)


def packet(data: bytes, pts: int | None = 40) -> av.Packet[Any]:
    made: av.Packet[Any] = av.Packet(data)
    made.pts, made.time_base = pts, Fraction(1, 1000)
    return made


def with_lengths(*units: bytes) -> bytes:
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)


def with_start_codes(*units: bytes) -> bytes:
    return b"".join(b"\0\0\0\1" + unit for unit in units)


@pytest.mark.parametrize(("extradata", "join"), [(AVCC, with_lengths), (b"", with_start_codes)])
@pytest.mark.parametrize(
    ("picture", "key", "referred"), [(IDR, True, True), (REFERRED, False, True), (IDLE, False, False)]
)
def test_h264_says_whether_a_picture_is_referred_to(
    extradata: bytes, join: Any, picture: bytes, key: bool, referred: bool
) -> None:
    wanted = Glimpse(key, key, referred, 40_000_000)
    assert glimpser(extradata).look(packet(join(picture))) == wanted
    assert glimpser(extradata).look(packet(join(PARAMETERS, MESSAGE, MESSAGE + bytes([7] * 9000), picture))) == wanted


@pytest.mark.parametrize(("extradata", "join"), [(AVCC, with_lengths), (b"", with_start_codes)])
def test_parameter_sets_alone_are_no_picture(extradata: bytes, join: Any) -> None:
    assert glimpser(extradata).look(packet(join(PARAMETERS, MESSAGE))) is None
    assert glimpser(extradata).look(packet(join(PARAMETERS)[:5])) is None


def test_h265_is_believed_after_a_whole_group() -> None:
    """A picture that its own temporal layer does not refer to may be referred to by a deeper one."""
    key, idle, deeper = b"\x26\1\xaf", b"\0\1\xe0", b"\0\2\xe0"
    look = glimpser(codec="hevc").look

    def referred(unit: bytes) -> bool:
        glimpse = look(packet(with_start_codes(unit)))
        assert glimpse is not None
        return glimpse.referred

    assert [referred(unit) for unit in (key, idle, key, idle)] == [True, True, True, False]
    assert [referred(unit) for unit in (deeper, idle, deeper)] == [False, True, False]


@given(st.binary(min_size=1, max_size=60), st.sampled_from([b"", AVCC]), st.sampled_from(["h264", "hevc"]))
def test_any_bytes_are_looked_at(data: bytes, extradata: bytes, codec: str) -> None:
    for stream in (data, with_start_codes(data), with_lengths(data)):
        glimpser(extradata, codec).look(packet(stream, None))


def test_a_file_and_the_same_as_annex_b_say_the_same(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 40, b_frames=3)
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        looking = Glimpser(stream.codec_context)
        in_file = [looking.look(each) for each in container.demux(stream) if each.size]
    pushed = [glimpser().look(packet(data)) for data, _, _ in annex_b(path)]
    assert [each and (each.clean, each.referred) for each in in_file] == [
        each and (each.clean, each.referred) for each in pushed
    ]
    assert {each and each.referred for each in in_file} == {True, False}


def test_without_b_frames_every_picture_is_referred_to() -> None:
    packets, _ = encode([numbered(number) for number in range(20)])
    glimpses = [glimpser().look(packet(each.data)) for each in packets]
    assert all(each is not None and each.referred for each in glimpses)
