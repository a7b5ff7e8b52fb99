"""Pushed packets: decoded in order, told when taken, and never busy while they wait for anybody."""

from __future__ import annotations

from lensmount_server.workers.messages import Packet, Pushing
from lensmount_server.workers.reading import PushReader
from opened import pixels_of
from videos import encode, number_of, numbered


def test_packets_become_frames_and_are_told() -> None:
    packets, _ = encode([numbered(number) for number in range(8)], b_frames=2)
    took: list[int] = []
    inside: list[bool] = []
    reader = PushReader(Pushing("h264"), lambda: took.append(reader.broken), inside.append)
    for each in packets:
        reader.push(Packet(0, len(each.data), each.pts_ns, each.dts_ns), each.data)
    reader.push(Packet(0, 7), b"garbage")
    reader.push(Packet(0, last=True), b"")
    numbers = []
    for frame in reader.frames():
        assert inside[-1] is False  # whoever takes the frame may take his time
        numbers.append(number_of(pixels_of(frame.picture)))
    assert numbers == list(range(8))
    assert took == [0] * len(packets) + [1]
    assert inside == [True, False] * (len(packets) + 2)


def test_a_reader_that_is_stopped_ends_whatever_was_pushed() -> None:
    reader = PushReader(Pushing("h265"), lambda: None, lambda _: None)
    reader.stop()
    assert list(reader.frames()) == []
