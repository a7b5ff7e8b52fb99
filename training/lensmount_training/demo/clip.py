"""The demo's clip: a camera passes along plates of brick, grass and gravel, and the truth of every frame is known.

It stops short at each plate and moves quickly between two. The plates are cut from
the part of the photographs that no picture to train on shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from lensmount_training.demo.boxes import Box
from lensmount_training.demo.camera import Light, Pose, expose, locate, look
from lensmount_training.demo.defects import DEFECTS
from lensmount_training.demo.journey import journey
from lensmount_training.demo.plates import PITCH, Order, Plate, defects_on, lay_out, make_plate
from lensmount_training.demo.surfaces import SURFACES, Part
from lensmount_training.demo.truth import ClipTruth, FrameTruth, defect_seen, write_truth

Progress = Callable[[int, int], None]
"""Called with the number of frames encoded so far and the number of all."""


_SPREAD = (75.0, 85.0)
_BT709 = 1
"""The number of BT.709 in H.264's tables of colour spaces, primaries and transfer functions."""


@dataclass(frozen=True)
class ClipSettings:
    """What the clip shall be.

    `rounds` times it passes each surface with each defect once (12 plates a round), so
    that every round is as hard as the next. Frames are `width` × `height` pixels;
    `crf` is x264's quality (0 best to 51).
    """

    rounds: int = 2
    frames_per_plate: int = 25
    frames_per_second: int = 15
    width: int = 640
    height: int = 360
    crf: int = 23
    b_frames: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Clip:
    """A clip on disk, where its truth is stored, and the truth itself."""

    video: Path
    truth_file: Path
    truth: ClipTruth


@dataclass(frozen=True)
class _Shot:
    pose: Pose
    light: Light
    truth: FrameTruth


def write_clip(folder: Path, settings: ClipSettings | None = None, progress: Progress | None = None) -> Clip:
    """Writes `folder`/clip.mp4 (H.264 High, yuv420p, BT.709, a key frame a second) and `folder`/clip.truth.json."""
    settings = settings or ClipSettings()
    folder.mkdir(parents=True, exist_ok=True)
    dice, grain = np.random.default_rng(settings.seed).spawn(2)
    orders = _orders(settings.rounds, dice)
    plates = [make_plate(order, Part.CLIP, own) for order, own in zip(orders, dice.spawn(len(orders)), strict=True)]
    shots = _shots(plates, settings)
    clip = Clip(folder / "clip.mp4", folder / "clip.truth.json", ClipTruth(tuple(shot.truth for shot in shots)))
    write_truth(clip.truth, clip.truth_file)
    _encode(_film(plates, shots, settings, grain), clip.video, settings, progress, len(shots))
    return clip


def _orders(rounds: int, rng: np.random.Generator) -> list[Order]:
    """Each round has every surface with every defect, shuffled; a defect's strengths are spread evenly."""
    orders: list[Order] = []
    for _ in range(rounds):
        kinds = list(product(SURFACES, DEFECTS))
        strengths = {defect: iter(_spread(len(SURFACES), rng)) for defect in DEFECTS}
        for surface, defect in (kinds[index] for index in rng.permutation(len(kinds))):
            orders.append(Order(surface, defect, next(strengths[defect]), _SPREAD))
    return orders


def _spread(count: int, rng: np.random.Generator) -> list[float]:
    """So many values in [0, 1], one from each of as many equal steps, shuffled."""
    return [float(value) for value in rng.permutation((np.arange(count) + rng.random(count)) / count)]


def _shots(plates: list[Plate], settings: ClipSettings) -> list[_Shot]:
    defects = list(defects_on(plates))
    return [
        _Shot(pose, light, _truth(plates, defects, pose, settings))
        for pose, light in journey(len(plates), settings.frames_per_plate)
    ]


def _truth(plates: list[Plate], defects: list[tuple[Box, str]], pose: Pose, settings: ClipSettings) -> FrameTruth:
    surface = plates[int(pose.x // PITCH)].surface
    size = settings.height, settings.width
    return FrameTruth(surface, defect_seen({locate(box, pose, *size): kind for box, kind in defects}, *size))


def _film(
    plates: list[Plate], shots: list[_Shot], settings: ClipSettings, rng: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    belt = lay_out(plates)
    for shot in shots:
        yield expose(look(belt, shot.pose, settings.height, settings.width), shot.light, rng)


def _encode(
    pictures: Iterator[NDArray[np.uint8]], file: Path, settings: ClipSettings, progress: Progress | None, total: int
) -> None:
    with av.open(str(file), "w") as container:
        stream = _open_stream(container, settings)
        for done, picture in enumerate(pictures, start=1):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
            container.mux(stream.encode(frame))
            if progress:
                progress(done, total)
        container.mux(stream.encode())


def _open_stream(container: OutputContainer, settings: ClipSettings) -> VideoStream:
    options = {"crf": str(settings.crf), "preset": "fast", "profile": "high", "sc_threshold": "0"}
    stream = container.add_stream("libx264", rate=settings.frames_per_second, options=options)
    stream.width, stream.height, stream.pix_fmt = settings.width, settings.height, "yuv420p"
    stream.gop_size = settings.frames_per_second
    context = stream.codec_context
    context.max_b_frames = settings.b_frames
    context.thread_count = 2
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = ColorRange.MPEG
    return stream
