from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from lensmount_training.demo import plates
from lensmount_training.demo.boxes import Box
from lensmount_training.demo.clip import Clip, ClipSettings, write_clip
from lensmount_training.demo.defects import DEFECTS, Stroke, draw
from lensmount_training.demo.surfaces import SURFACES, Pixels
from lensmount_training.demo.truth import model_view, read_truth

SHORT = ClipSettings(rounds=1, frames_per_plate=5)
FRAMES = 60


def decode(clip: Clip) -> list[NDArray[np.uint8]]:
    with av.open(str(clip.video)) as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return write_clip(tmp_path_factory.mktemp("clip"), SHORT)


@pytest.fixture(scope="module")
def frames(clip: Clip) -> list[NDArray[np.uint8]]:
    return decode(clip)


def test_every_frame_is_decoded_and_has_its_truth(clip: Clip, frames: list[NDArray[np.uint8]]) -> None:
    assert len(frames) == len(clip.truth.frames) == FRAMES
    assert read_truth(clip.truth_file) == clip.truth
    assert {frame.shape for frame in frames} == {(360, 640, 3)}


def test_it_is_high_profile_bt709_with_a_key_frame_a_second(clip: Clip) -> None:
    with av.open(str(clip.video)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        context = stream.codec_context
        assert (context.name, context.profile, context.pix_fmt) == ("h264", "High", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert stream.average_rate == Fraction(15)
    assert [index for index, packet in enumerate(packets) if packet.is_keyframe] == [0, 15, 30, 45]


@pytest.mark.parametrize("b_frames", [0, 2])
def test_b_frames_only_when_asked_for(tmp_path: Path, b_frames: int) -> None:
    clip = write_clip(tmp_path, ClipSettings(rounds=1, frames_per_plate=5, b_frames=b_frames))
    with av.open(str(clip.video)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert len(times) == len(decode(clip)) == FRAMES
    assert (times != sorted(times)) == bool(b_frames)


def test_the_middle_of_the_frame_has_the_colour_of_its_surface(clip: Clip, frames: list[NDArray[np.uint8]]) -> None:
    for index, (frame, truth) in enumerate(zip(frames, clip.truth.frames, strict=True)):
        if index % 5 != 2:
            continue
        red, green, blue = (float(frame[80:280, 220:420, channel].mean()) for channel in range(3))
        warm, lush = red - green, green - blue
        assert truth.surface == ("brick" if warm > 20 else "grass" if lush > 20 else "gravel")


def test_a_round_shows_every_surface_with_every_defect(clip: Clip) -> None:
    at_rest = [(frame.surface, frame.defect) for frame in clip.truth.frames[2::5]]
    assert Counter(at_rest) == dict.fromkeys(product(SURFACES, DEFECTS), 1)


def test_the_truth_says_where_a_defect_is_to_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clean(kind: str, pixels: Pixels, centre: tuple[float, float], stroke: Stroke) -> Box | None:
        return draw(kind, pixels.copy(), centre, stroke)

    settings = ClipSettings(rounds=1, frames_per_plate=5, crf=8)
    drawn = write_clip(tmp_path / "drawn", settings)
    monkeypatch.setattr(plates, "draw", clean)
    undrawn = write_clip(tmp_path / "undrawn", settings)
    assert undrawn.truth == drawn.truth
    view = model_view(360, 640)
    rows, columns = slice(round(view.top), round(view.bottom)), slice(round(view.left), round(view.right))
    pairs = zip(decode(drawn), decode(undrawn), drawn.truth.frames, strict=True)
    for index, (one, other, truth) in enumerate(pairs):
        if index % 5 != 2:
            continue
        changed = np.abs(one[rows, columns].astype(int) - other[rows, columns]).max(axis=2) > 20
        assert (changed.sum() > 60) == (truth.defect != "ok"), (index, truth, changed.sum())


def test_a_seed_decides_every_byte(clip: Clip, tmp_path: Path) -> None:
    again = write_clip(tmp_path / "again", SHORT)
    other = write_clip(tmp_path / "other", ClipSettings(rounds=1, frames_per_plate=5, seed=1))
    assert again.video.read_bytes() == clip.video.read_bytes()
    assert again.truth == clip.truth
    assert other.video.read_bytes() != clip.video.read_bytes()
    assert other.truth != clip.truth


def test_progress_counts_to_the_last_frame(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    note: Callable[[int, int], None] = lambda done, total: calls.append((done, total))  # noqa: E731 - it has a type
    write_clip(tmp_path, ClipSettings(rounds=1, frames_per_plate=1), note)
    assert calls == [(done, 12) for done in range(1, 13)]
