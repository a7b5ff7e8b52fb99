"""Pictures to train on: two ImageFolders of surfaces with drawn defects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lensmount_training.demo.camera import Light, Pose, expose, locate, look
from lensmount_training.demo.defects import DEFECTS, OK
from lensmount_training.demo.plates import HEIGHT, PITCH, WIDTH, Order, Plate, defects_on, lay_out, make_plate
from lensmount_training.demo.surfaces import SURFACES, Part
from lensmount_training.demo.truth import defect_seen

SIDE = 360
"""Pictures are square and as high as the clip's frames, so that both reach the model at one scale."""

Progress = Callable[[int, int], None]
"""Called with the number of pictures written so far and the number of all."""

_SEAMS = 0.2
"""Share of the pictures that show two plates and the belt between them."""


@dataclass(frozen=True)
class PictureSettings:
    """How many pictures of each class, and the seed that decides every pixel of them."""

    per_defect: int = 200
    per_surface: int = 60
    seed: int = 0


@dataclass(frozen=True)
class PictureFolders:
    """Two ImageFolders: a folder for each label, the pictures inside."""

    defect: Path
    surface: Path


@dataclass(frozen=True)
class _Job:
    file: Path
    order: Order


def write_pictures(
    folder: Path, settings: PictureSettings | None = None, progress: Progress | None = None
) -> PictureFolders:
    """Writes `folder`/defect and `folder`/surface; JPEG, SIDE × SIDE.

    Every label holds as many pictures as the settings say, and each surface appears
    equally often under each defect and each defect under each surface (to within one).
    """
    settings = settings or PictureSettings()
    folders = PictureFolders(folder / "defect", folder / "surface")
    dice = np.random.default_rng(settings.seed)
    jobs = [
        *_defect_jobs(folders.defect, settings.per_defect, dice),
        *_surface_jobs(folders.surface, settings.per_surface, dice),
    ]
    for done, (job, rng) in enumerate(zip(jobs, dice.spawn(len(jobs)), strict=True), start=1):
        job.file.parent.mkdir(parents=True, exist_ok=True)
        job.file.write_bytes(_jpeg(take_picture(job.order, Part.PICTURES, rng), rng))
        if progress:
            progress(done, len(jobs))
    return folders


def take_picture(order: Order, part: Part, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A picture of what was ordered: RGB of shape (SIDE, SIDE, 3), with a pose, a light and a softness of its own."""
    plate = make_plate(order, part, rng)
    plates, index = [plate], 0
    if rng.random() < _SEAMS:
        other = make_plate(Order(SURFACES[rng.integers(len(SURFACES))], OK, 0.0), part, rng)
        index = int(rng.integers(2))
        plates.insert(1 - index, other)
    seen = look(lay_out(plates), _pose(plates, index, rng), SIDE, SIDE)
    gain, noise = rng.uniform(0.8, 1.2), rng.uniform(0.5, 4)
    slope = (rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2))
    return _soften(expose(seen, Light(gain, slope, noise), rng), rng)


def _defect_jobs(folder: Path, count: int, dice: np.random.Generator) -> Iterator[_Job]:
    for label in DEFECTS:
        for number, surface in zip(range(count), cycle(SURFACES)):
            yield _Job(folder / label / f"{number:04}.jpg", Order(surface, label, dice.random()))


def _surface_jobs(folder: Path, count: int, dice: np.random.Generator) -> Iterator[_Job]:
    for label in SURFACES:
        for number, defect in zip(range(count), cycle(DEFECTS)):
            yield _Job(folder / label / f"{number:04}.jpg", Order(label, defect, dice.random()))


def _pose(plates: list[Plate], index: int, rng: np.random.Generator) -> Pose:
    """Somewhere over plate `index`, such that its defect is in the model's view."""
    while True:
        x, y = _middle(len(plates), index, rng), HEIGHT / 2 + rng.uniform(-12, 12)
        pose = Pose(x, y, turn=rng.uniform(-2, 2), zoom=rng.uniform(0.96, 1.05))
        boxes = {locate(box, pose, SIDE, SIDE): kind for box, kind in defects_on(plates)}
        if defect_seen(boxes, SIDE, SIDE) == plates[index].defect:
            return pose


def _middle(plates: int, index: int, rng: np.random.Generator) -> float:
    """Somewhere over plate `index`; towards its neighbour where it has one."""
    own = (index + 0.5) * PITCH
    if plates == 1:
        return own + rng.uniform(-1, 1) * (WIDTH - SIDE) / 2
    return own + (1 - 2 * index) * rng.uniform(0, PITCH / 2)


def _soften(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A lens and a video encoder take away what is finest."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.2, 1.0)), np.uint8)


def _jpeg(picture: NDArray[np.uint8], rng: np.random.Generator) -> bytes:
    quality = int(rng.integers(50, 96))
    return cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
