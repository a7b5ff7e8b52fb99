"""The annotated video: what each task said of each frame, which version said it, and when it was right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from lensmount import Result
from lensmount_training.demo.footage import Footage, Pixels
from lensmount_training.demo.truth import ClipTruth
from lensmount_training.progress import Progress

Colour = tuple[int, int, int]

WHITE: Colour = (245, 245, 245)
GREY: Colour = (150, 150, 150)
GREEN: Colour = (110, 200, 90)
RED: Colour = (70, 70, 230)
VERSIONS: tuple[Colour, ...] = ((60, 170, 245), (110, 200, 90), (220, 160, 80))


@dataclass(frozen=True)
class Timeline:
    """One mark a frame of the task that is swapped: right, wrong, or unknown (None)."""

    marks: Mapping[int, bool | None]
    frames: int


def write_video(
    path: Path, footage: Footage, results: Sequence[Result], truth: ClipTruth | None, progress: Progress
) -> None:
    """Draw the results on the frames and write H.264 to `path`."""
    by_frame: dict[int, list[Result]] = defaultdict(list)
    for result in results:
        by_frame[result.frame_index].append(result)
    timeline = _timeline(results, truth)
    bar = progress.bar("drawing demo.mp4", len(by_frame))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=footage.frames_per_second(), options={"crf": "20"})
        stream.pix_fmt = "yuv420p"
        for index, pixels in footage.pictures():
            if index not in by_frame:
                continue
            picture = _even(draw(pixels, by_frame[index], index, timeline))
            if not stream.codec_context.is_open:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
            bar.advance()
        container.mux(stream.encode())


def draw(pixels: Pixels, results: Sequence[Result], index: int, timeline: Timeline) -> Pixels:
    """One frame (BGR) with a card for each task and the timeline below."""
    unit = max(pixels.shape[0] / 360, 0.5)
    height, width = pixels.shape[:2]
    strip = round(58 * unit)
    picture = pixels.copy()
    picture[height - strip :] = (picture[height - strip :] * 0.25 + 12).astype(np.uint8)
    card = width / max(len(results), 1)
    for place, result in enumerate(results):
        _card(picture, result, (round(place * card), height - strip), round(card), unit)
    _draw_timeline(picture, index, timeline, max(round(6 * unit), 3))
    return picture


def _card(picture: Pixels, result: Result, corner: tuple[int, int], width: int, unit: float) -> None:
    left, top = corner[0] + round(14 * unit), corner[1]
    colour = VERSIONS[(result.version - 1) % len(VERSIONS)]
    label = result.label or "nothing"
    _text(picture, f"{result.task} v{result.version}", (left, top + round(18 * unit)), 0.42 * unit, colour)
    _text(picture, f"{label} {result.score:.2f}", (left, top + round(38 * unit)), 0.58 * unit, WHITE)
    right = corner[0] + width - round(14 * unit)
    y = top + round(46 * unit)
    cv2.line(picture, (left, y), (right, y), (70, 70, 70), max(round(2 * unit), 1))
    cv2.line(picture, (left, y), (round(left + (right - left) * result.score), y), colour, max(round(2 * unit), 1))


def _text(picture: Pixels, text: str, at: tuple[int, int], scale: float, colour: Colour) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def _draw_timeline(picture: Pixels, index: int, timeline: Timeline, thick: int) -> None:
    height, width = picture.shape[:2]
    for x in range(round(width * (index + 1) / timeline.frames)):
        frame = min(x * timeline.frames // width, index)
        mark = timeline.marks.get(frame)
        picture[height - thick :, x] = GREY if mark is None else (GREEN if mark else RED)


def _timeline(results: Sequence[Result], truth: ClipTruth | None) -> Timeline:
    task = max({result.task for result in results}, key=lambda name: _versions(results, name), default="")
    known = truth.labels(task) if truth and task in ("surface", "defect") else ()
    own = [result for result in results if result.task == task]
    marks = {each.frame_index: each.label == known[each.frame_index] if known else None for each in own}
    return Timeline(marks, max(marks, default=0) + 1)


def _versions(results: Sequence[Result], task: str) -> int:
    return len({result.version for result in results if result.task == task})


def _even(picture: Pixels) -> Pixels:
    """H.264 in 4:2:0 wants even sides."""
    return np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
