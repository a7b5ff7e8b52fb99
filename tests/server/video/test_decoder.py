from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensmount.errors import InvalidInputError, TooLargeError
from lensmount_server.frames import Frame
from lensmount_server.video.decoder import Codec, PacketDecoder
from lensmount_server.video.limits import PictureLimits
from opened import pixels_of
from videos import NS, Packet, annex_b, clip, encode, number_of, numbered

CODECS: list[Codec] = ["h264", "h265"]


def push(decoder: PacketDecoder, packets: Iterable[Packet]) -> list[Frame]:
    frames = [frame for each in packets for frame in decoder.decode(each.data, each.pts_ns, each.dts_ns)]
    return frames + decoder.flush()


def pictures(count: int, width: int = 320, height: int = 240) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    return [numbered(number, width, height) for number in range(count)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("b_frames", [0, 3])
def test_every_frame_comes_out_in_presentation_order(codec: Codec, b_frames: int) -> None:
    packets, _ = encode(pictures(40), codec, b_frames=b_frames)
    reordered = [packet.pts_ns for packet in packets] != sorted(packet.pts_ns for packet in packets)
    assert reordered == bool(b_frames)  # the test's own video is what it says
    decoder = PacketDecoder(codec)
    frames = push(decoder, packets)
    assert [number_of(pixels_of(frame.picture)) for frame in frames] == list(range(40))
    assert [frame.index for frame in frames] == list(range(40))
    assert [frame.pts_ns for frame in frames] == [number * NS // 25 for number in range(40)]
    assert decoder.broken == 0


def test_without_b_frames_each_packet_is_a_frame_at_once() -> None:
    packets, _ = encode(pictures(10))
    decoder = PacketDecoder("h264")
    assert [len(decoder.decode(packet.data, packet.pts_ns)) for packet in packets] == [1] * 10
    assert decoder.flush() == []


def test_frames_are_rgb_and_say_what_decoding_took() -> None:
    frame = push(PacketDecoder("h264"), encode(pictures(1))[0])[0]
    assert pixels_of(frame.picture).shape == (240, 320, 3)
    assert pixels_of(frame.picture).dtype == np.uint8
    assert pixels_of(frame.picture).flags.c_contiguous
    assert 0 < frame.decode_ms < 10_000


def test_the_capture_time_follows_its_own_packet_through_reordering() -> None:
    packets, _ = encode(pictures(20), b_frames=3)
    decoder = PacketDecoder("h264")
    frames = [
        frame
        for packet in packets
        for frame in decoder.decode(packet.data, packet.pts_ns, packet.dts_ns, 10**18 + packet.pts_ns)
    ]
    frames += decoder.flush()
    assert [frame.capture_time_ns - 10**18 for frame in frames] == [frame.pts_ns for frame in frames]


def test_a_capture_time_of_zero_is_the_arrival() -> None:
    before = time.time_ns()
    frame = push(PacketDecoder("h264"), encode(pictures(1))[0])[0]
    assert before <= frame.capture_time_ns <= time.time_ns()


@pytest.mark.parametrize("codec", CODECS)
def test_the_resolution_may_change(codec: Codec) -> None:
    sizes = [(320, 240), (640, 360), (176, 144)]
    packets = [packet for width, height in sizes for packet in encode(pictures(5, width, height), codec)[0]]
    frames = push(PacketDecoder(codec), packets)
    assert [pixels_of(frame.picture).shape[1::-1] for frame in frames] == [size for size in sizes for _ in range(5)]
    assert [number_of(pixels_of(frame.picture)) for frame in frames] == list(range(5)) * 3


def test_headers_may_come_apart_from_the_packets() -> None:
    packets, extradata = encode(pictures(3), global_header=True)
    assert len(push(PacketDecoder("h264", extradata), packets)) == 3
    decoder = PacketDecoder("h264")
    assert decoder.decode(extradata) == []
    assert len(push(decoder, packets)) == 3
    assert decoder.broken == 0


def test_a_broken_packet_is_counted_and_the_stream_goes_on() -> None:
    packets, _ = encode(pictures(24), options={"g": "6"})
    packets[8] = Packet(b"\0\0\0\1\x41" + bytes(20), packets[8].pts_ns, packets[8].dts_ns)
    packets[9] = Packet(b"not a packet", packets[9].pts_ns, packets[9].dts_ns)
    packets[10] = Packet(b"", packets[10].pts_ns, packets[10].dts_ns)
    decoder = PacketDecoder("h264")
    frames = push(decoder, packets)
    assert decoder.broken == 3
    assert [number_of(pixels_of(frame.picture)) for frame in frames[-12:]] == list(range(12, 24))


@pytest.mark.parametrize("codec", CODECS)
def test_what_never_becomes_a_picture_is_refused_after_a_while(codec: Codec) -> None:
    decoder = PacketDecoder(codec)
    random = np.random.default_rng(0)
    junk = [Packet(random.bytes(500), 0, 0) for _ in range(1000)]
    with pytest.raises(InvalidInputError, match=codec.upper().replace("H", r"H\.")) as caught:
        push(decoder, junk)
    assert "256 packets" in caught.value.message


def test_what_never_became_a_picture_is_refused_at_the_end() -> None:
    decoder = PacketDecoder("h264")
    assert decoder.decode(b"GIF89a, not H.264") == []
    assert decoder.broken == 1
    with pytest.raises(InvalidInputError):
        decoder.flush()


def test_an_empty_stream_is_no_error() -> None:
    assert PacketDecoder("h264").flush() == []


def test_a_stream_that_worked_may_break_for_long() -> None:
    decoder = PacketDecoder("h264")
    frames = decoder.decode(encode(pictures(1))[0][0].data)
    for _ in range(300):
        frames += decoder.decode(b"no picture")
    assert len(frames + decoder.flush()) == 1
    assert decoder.broken == 300


@pytest.mark.parametrize("codec", CODECS)
def test_a_picture_beyond_the_limits_is_refused_by_name(codec: Codec) -> None:
    small, large = encode(pictures(3), codec)[0], encode(pictures(3, 640, 480), codec)[0]
    decoder = PacketDecoder(codec, limits=PictureLimits(max_pixels=320 * 240))
    for packet in small:
        decoder.decode(packet.data)
    with pytest.raises(TooLargeError) as caught:
        push(decoder, large)
    assert (caught.value.field, caught.value.value) == ("width*height", "640x480")
    assert caught.value.fix


def test_a_side_beyond_the_limits_is_refused_by_name() -> None:
    decoder = PacketDecoder("h264", limits=PictureLimits(max_side=300))
    with pytest.raises(TooLargeError) as caught:
        decoder.decode(encode(pictures(1))[0][0].data)
    assert (caught.value.field, caught.value.value) == ("width", "320")


def test_an_unknown_codec_is_refused_with_the_list() -> None:
    with pytest.raises(InvalidInputError, match="h264, h265"):
        PacketDecoder("vp9")  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", CODECS)
def test_the_other_codec_is_not_decoded_by_chance(codec: Codec) -> None:
    packets, _ = encode(pictures(10), "h265" if codec == "h264" else "h264")
    with pytest.raises(InvalidInputError):
        push(PacketDecoder(codec), packets)


HEALTHY = encode(pictures(12), b_frames=2)[0]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 4000), st.integers(0, 255)), max_size=12))
def test_damage_never_escapes(damage: list[tuple[int, int, int]]) -> None:
    packets = [bytearray(packet.data) for packet in HEALTHY]
    for index, position, value in damage:
        packets[index][position % len(packets[index])] = value
    decoder = PacketDecoder("h264", limits=PictureLimits(max_pixels=10**6))
    frames: list[Frame] = []
    try:
        for data in packets:
            frames += decoder.decode(bytes(data))
        frames += decoder.flush()
    except (InvalidInputError, TooLargeError):
        return
    assert len(frames) + decoder.broken <= len(packets) + len(damage)
    assert all(pixels_of(frame.picture).ndim == 3 for frame in frames)


def test_a_real_clip_with_b_frames() -> None:
    decoder = PacketDecoder("h265")
    frames = [frame for packet in annex_b(clip("bottle_h265_gop30_b3.mp4")) for frame in decoder.decode(*packet)]
    frames += decoder.flush()
    assert len(frames) == 300
    assert decoder.broken == 0
    assert [frame.pts_ns for frame in frames] == sorted({frame.pts_ns for frame in frames})
