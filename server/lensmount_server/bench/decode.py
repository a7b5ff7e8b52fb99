"""`lensmount bench decode`: what a frame costs until a backbone can have it, beside OpenCV and timm.

All in CPU time of the whole process, decoding on one thread, all sides in turns. The clips are what cameras send
(no B-frames, a key frame a second), but for the one with x264's own B-frames, as recorders write it. Their whole scene
moves, at 2 Mb/s for 720p; a fixed camera's background does not, and costs less.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from lensmount_adapters.preprocessing import Preprocessing
from lensmount_adapters.timing import Rounds, Timed, in_turns
from lensmount_server.bench.clips import FULL_HD, HD, NO_B_FRAMES, Recipe, write
from lensmount_server.video.decoder import Decoded, PictureDecoder
from lensmount_server.video.effort import Thrift
from lensmount_server.video.limits import PictureLimits
from lensmount_server.video.nal import Glimpse
from lensmount_server.video.settings import Effort

MODEL = "vit_small_patch16_224"
SOURCES, WANTED_FPS, SKIPPING = 8, 5.0, "eight_sources_5_of_30_fps"
# Pictures of a clip: some seconds, so that opening the file and the first conversion do not count.
FRAMES = 120
_NS = 1_000_000_000
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"

Progress = Callable[[str, Rounds], None]


@dataclass(frozen=True)
class Case:
    """One row: CPU milliseconds a frame, ours and the others'; for skipping, a frame of the source.

    `ratio` is how many times cheaper ours is, but for skipping (`eight_sources_…`) our cost through that of decoding
    everything: the median of round-by-round ratios, with its quartiles.
    """

    name: str
    ms: float
    other_ms: float
    to: str
    ratio: float
    ratio_low: float
    ratio_high: float
    goal: float | None = None

    @property
    def skips(self) -> bool:
        """Whether the ratio is a share of the cost: lower is better."""
        return self.name.startswith("eight_sources")


@dataclass(frozen=True)
class Report:
    """Everything that one run measured, with what."""

    opencv: str
    pyav: str
    rounds: int
    frames: int
    cases: tuple[Case, ...]


def measure(rounds: int, progress: Progress) -> Report:
    """Encode the clips and run everything; takes some minutes. `progress` is told after every round."""
    with tempfile.TemporaryDirectory(prefix="lensmount-bench-") as scratch, _one_thread():
        fixed = Recipe("720p_fixed_camera", *HD[:2], 0, NO_B_FRAMES, drift=0)
        cases: list[Case] = []
        for recipe in (Recipe("720p", *HD, NO_B_FRAMES), Recipe("1080p", *FULL_HD, NO_B_FRAMES), fixed):
            cases += _preparing(recipe, Path(scratch), rounds, progress)
        cases += _skipping(Path(scratch), rounds, progress)
    return Report(cv2.__version__, av.__version__, rounds, FRAMES, tuple(cases))


class _one_thread:  # noqa: N801 - reads as what it does
    """One thread for OpenCV's decoder and for everything else, while it lasts."""

    def __enter__(self) -> None:
        self._before = os.environ.get(_OPTIONS), cv2.getNumThreads(), torch.get_num_threads()
        os.environ[_OPTIONS] = "threads;1"
        cv2.setNumThreads(1)
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        options, opencv, torchs = self._before
        os.environ.pop(_OPTIONS)
        if options is not None:
            os.environ[_OPTIONS] = options
        cv2.setNumThreads(opencv)
        torch.set_num_threads(torchs)


def _preparing(recipe: Recipe, folder: Path, rounds: int, progress: Progress) -> Iterator[Case]:
    name, path = recipe.name, write(folder, recipe, FRAMES)
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(MODEL).to_dict())
    preprocessing = Preprocessing.from_timm(config)
    sides: dict[str, Timed] = {
        "ours": partial(_ours, path, preprocessing, normalize=False),
        "ours, normalized": partial(_ours, path, preprocessing, normalize=True),
        "opencv": partial(_opencv, path, preprocessing),
        "timm": partial(_timm, path, create_transform(**config)),
    }
    done = _run(name, sides, rounds, progress)
    yield _cheaper(done, f"timm_pil_{name}", "ours, normalized", "timm", "VideoCapture, timm's transform", 4.0)
    yield _cheaper(done, f"opencv_{name}", "ours", "opencv", "VideoCapture, resize (INTER_LINEAR)", 1.1)


def _skipping(folder: Path, rounds: int, progress: Progress) -> Iterator[Case]:
    """Decoding alone. The clips of the second and third have no B-frames and a key frame a second."""
    default = write(folder, Recipe("default", *HD), FRAMES)
    plain = write(folder, Recipe("plain", *HD, NO_B_FRAMES), FRAMES)
    runs: tuple[tuple[str, Path, float, float | None], ...] = (
        (SKIPPING, default, WANTED_FPS, 0.7),
        (f"{SKIPPING}_no_b_frames", plain, WANTED_FPS, None),
        ("eight_sources_1_of_30_fps_no_b_frames", plain, 1.0, None),
    )
    for name, path, max_fps, goal in runs:
        group_s = None if path == default else 1.0
        sides: dict[str, Timed] = {
            "needed": partial(_sources, path, Effort.AUTO, max_fps, group_s),
            "all": partial(_sources, path, Effort.ALL, 0.0, group_s),
        }
        done = _run(name, sides, rounds, progress)
        ratio = done.ratio("needed", "all")
        ms, other = (done.of(side).median / FRAMES / SOURCES for side in ("needed", "all"))
        median, low, high = (round(each, 3) for each in (ratio.median, ratio.low, ratio.high))
        yield Case(name, round(ms, 3), round(other, 3), "decoding everything", median, low, high, goal)


def _run(what: str, sides: dict[str, Timed], rounds: int, progress: Progress) -> Rounds:
    done = Rounds({})
    for done in in_turns(sides, rounds, time.process_time):
        progress(what, done)
    return done


def _cheaper(done: Rounds, name: str, ours: str, rival: str, to: str, goal: float) -> Case:
    ratio = done.ratio(rival, ours)
    ms, other = (round(done.of(side).median / FRAMES, 3) for side in (ours, rival))
    return Case(name, ms, other, to, round(ratio.median, 2), round(ratio.low, 2), round(ratio.high, 2), goal)


def _decoding(path: Path, thrift: Thrift | None) -> Iterator[list[Decoded]]:
    """What comes of each packet of a file, as a source decodes it."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        decoder = PictureDecoder(stream.codec_context, PictureLimits(), thrift)
        for packet in container.demux(stream):
            yield decoder.decode(packet if packet.size else None, 1)


def _ours(path: Path, preprocessing: Preprocessing, *, normalize: bool) -> None:
    for pictures in _decoding(path, None):
        for each in pictures:
            prepared = each.picture.prepare(preprocessing)
            if normalize:
                preprocessing.normalize(prepared.unsqueeze(0))


def _sources(path: Path, effort: Effort, max_fps: float, group_s: float | None) -> None:
    """Eight sources side by side, which have been running for a while: the length of their groups is known."""
    thrifts = [Thrift(effort, max_fps) for _ in range(SOURCES)]
    for thrift in thrifts if group_s else ():
        for number in (-3, -2, -1):
            thrift.judge(Glimpse(key=True, clean=True, referred=True, pts_ns=round(number * (group_s or 0) * _NS)))
    for _ in zip(*(_decoding(path, thrift) for thrift in thrifts), strict=True):
        pass


def _captured(path: Path) -> Iterator[Any]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    while True:
        more, picture = capture.read()
        if not more:
            break
        yield picture
    capture.release()


def _opencv(path: Path, preprocessing: Preprocessing) -> None:
    """Colours are converted last, when the picture is small; INTER_AREA would be closer to training's, and slower."""
    for picture in _captured(path):
        height, width = preprocessing.resized(picture.shape[0], picture.shape[1])
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
        top, left = preprocessing.corner(height, width)
        crop = small[top : top + preprocessing.height, left : left + preprocessing.width]
        cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)


def _timm(path: Path, transform: Callable[[Image.Image], torch.Tensor]) -> None:
    for picture in _captured(path):
        transform(Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)))
