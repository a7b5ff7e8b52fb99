from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from lensmount_server.frames import OpenPicture, Still
from lensmount_server.video import motion
from lensmount_server.video.decoder import PacketDecoder
from lensmount_server.video.motion import MotionGate
from lensmount_server.video.picture import DecodedPicture
from lensmount_server.video.settings import Gate
from videos import clip, encode

MS = 1_000_000
ONE_PERCENT = Gate(0.01, refresh_ms=1_000_000)


def scene(level: float = 100, size: tuple[int, int] = (180, 320)) -> NDArray[np.uint8]:
    return np.full((*size, 3), level, np.uint8)


def judged(gate: MotionGate, pictures: list[OpenPicture], step_ms: int = 40) -> list[bool]:
    return [gate.is_still(picture, number * step_ms * MS) for number, picture in enumerate(pictures)]


def camera(frames: int, noise: float, enters: int | None = None) -> list[OpenPicture]:
    """A fixed camera with a noisy sensor, through x264; an object of 2 % of the picture comes in."""
    random = np.random.default_rng(0)
    background = np.clip(random.normal(110, 40, (18, 32, 1)), 30, 200).repeat(20, 0).repeat(20, 1).repeat(3, 2)
    shots = []
    for number in range(frames):
        shot = background + random.normal(0, noise, (360, 640, 1))
        if enters is not None and number >= enters:
            shot[100:151, 200:290] += 30
        shots.append(np.clip(shot, 0, 255).astype(np.uint8))
    packets, _ = encode(shots, options={"crf": "28", "g": "25", "preset": "veryfast"})
    decoder = PacketDecoder("h264")
    decoded = [frame for packet in packets for frame in decoder.decode(packet.data)] + decoder.flush()
    return [frame.picture for frame in decoded if isinstance(frame.picture, DecodedPicture)]


@pytest.mark.parametrize("noise", [2.0, 6.0])
def test_noise_and_key_frames_are_still_and_a_small_object_is_not(noise: float) -> None:
    still = judged(MotionGate(ONE_PERCENT), camera(120, noise, enters=80))
    assert not still[0]
    assert not still[80]
    assert sum(still) >= 0.95 * 118


def test_without_a_noise_threshold_the_same_scene_is_not_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(motion, "NOISE", 0)
    assert sum(judged(MotionGate(ONE_PERCENT), camera(30, 6.0))) < 0.5 * 29


def test_slow_change_adds_up() -> None:
    still = judged(MotionGate(ONE_PERCENT), [Still(scene(100 + number)) for number in range(30)])
    assert still == [number % 7 != 0 for number in range(30)]  # 7 levels from the last that was looked at


def test_a_change_must_be_as_large_as_was_asked_for() -> None:
    small, large = scene(), scene()
    small[:18, :24] = 200  # 0.75 %
    large[:18, :40] = 200  # 1.25 %
    assert judged(MotionGate(ONE_PERCENT), [Still(scene()), Still(small), Still(large)]) == [False, True, False]


def test_a_still_scene_is_looked_at_again_after_a_while() -> None:
    still = judged(MotionGate(Gate(0.01, refresh_ms=200)), [Still(scene())] * 12)
    assert still == [number % 5 != 0 for number in range(12)]


def test_another_size_is_not_still() -> None:
    pictures: list[OpenPicture] = [Still(scene()), Still(scene(size=(360, 640))), Still(scene(size=(360, 640)))]
    assert judged(MotionGate(ONE_PERCENT), pictures) == [False, False, True]


def test_what_is_forgotten_is_looked_at() -> None:
    gate = MotionGate(ONE_PERCENT)
    assert judged(gate, [Still(scene())] * 2) == [False, True]
    gate.forget()
    assert judged(gate, [Still(scene())] * 2) == [False, True]


def test_no_gate_lets_everything_pass() -> None:
    assert judged(MotionGate(Gate(0.0)), [Still(scene())] * 3) == [False] * 3


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (36, 64), (1080, 1920)])
@pytest.mark.parametrize("turns", [0, 1, 2])
def test_any_size(size: tuple[int, int], turns: int) -> None:
    shots = (scene(100, size), scene(100, size), scene(140, size))
    frames = [av.VideoFrame.from_ndarray(shot, "rgb24").reformat(format="yuv420p") for shot in shots]
    pictures: list[OpenPicture] = [DecodedPicture(frame).turned(turns) for frame in frames]
    assert judged(MotionGate(ONE_PERCENT), pictures) == [False, True, False]
    assert "pixels" not in vars(pictures[0])  # the luma plane is enough


def _bottles() -> Iterator[OpenPicture]:
    with av.open(str(clip("bottle-detection.mp4"))) as container:
        for frame in container.decode(video=0):
            yield DecodedPicture(frame)


def test_a_real_conveyor() -> None:
    """Bottles pass half of the time: some of it is gated, and never for longer than was asked for."""
    still = judged(MotionGate(Gate(0.01, refresh_ms=1000)), list(_bottles()), step_ms=33)
    assert 0.4 < sum(still) / len(still) < 0.8
    assert "1" * 31 not in "".join(str(int(each)) for each in still)
