"""Pictures that look wrong, by cleanvision's measures and thresholds: dark, light, blurry, empty, odd in shape or size.

cleanvision reads files one after the other, or in processes of its own with a bar of their own. Here pictures come
from any format, crops and frames among them, so its measures are called picture by picture, on several threads, and
its manager judges them all. Size and shape are those of the picture as it came; the rest is measured at 256 pixels a
side at most, which bounds the time that a large photograph takes.

Four rules are ours. What holds for more than half of the pictures is how these pictures are, no fault of theirs. Grey
among coloured counts, and coloured among grey. A size is odd only when it is also 1.5 times the usual one or less
than two thirds of it, since with cleanvision one row of pixels is enough where all others are equal. And a blurred
surface, which has no edges to lose and passes cleanvision, is found by its sharpness (`Facts`): a fiftieth of its
class's median; of real pictures the least had 0.023 of it, and blurred by 3 pixels the most 0.010.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import cv2
import numpy as np
import pandas as pd
from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager
from PIL import Image

from lensmount.errors import LensmountError
from lensmount_adapters.pictures import Pixels
from lensmount_training.context import Context
from lensmount_training.data.ahead import ahead
from lensmount_training.data.dataset import Dataset, Picture

LARGEST_SIDE = 256
USUAL = 0.5
ODD_SIZE = 1.5
# Channels of a grey picture that went through JPEG differ by rounding.
GREY_TOLERANCE = 4
BLURRED, LEAST_SHARPNESS = 0.02, 20.0

MEASURED = ("dark", "low_information", "blurry", "grayscale")
JUDGED = ("dark", "light", "low_information", "blurry", "odd_aspect_ratio", "odd_size", "grayscale")
WORDS = {
    "dark": "dark",
    "light": "overexposed",
    "low_information": "nearly empty",
    "blurry": "blurred",
    "odd_aspect_ratio": "odd shape",
    "odd_size": "odd size",
    "grayscale": "grey among coloured",
    "coloured": "coloured among grey",
}

Measures = dict[str, float | str]


@dataclass(frozen=True)
class Look:
    """One fault of a picture; `score` is cleanvision's, 0 (worst) to 1."""

    file: str
    kind: str
    score: float

    @property
    def words(self) -> str:
        """The fault in words."""
        return WORDS[self.kind]


@dataclass(frozen=True)
class Looks:
    """Faults, worst first of each kind, and by kind the share of what more than half of the pictures are."""

    faults: tuple[Look, ...]
    usual: dict[str, float]
    unreadable: tuple[str, ...] = ()

    def of(self, kind: str) -> tuple[Look, ...]:
        """Those of one kind."""
        return tuple(fault for fault in self.faults if fault.kind == kind)


def look(dataset: Dataset, context: Context) -> Looks:
    """Look at every picture as it came; one that can not be read again is named and left out."""
    files = [picture.file for picture in dataset.pictures]
    bar = context.progress.bar("looking at pictures", len(files))
    measured: dict[str, Measures] = {}
    for file, measures in ahead(lambda file: _measure(dataset, file), files):
        bar.advance()
        if measures is not None:
            measured[file] = measures
    unreadable = tuple(file for file in files if file not in measured)
    pictures = {picture.file: picture for picture in dataset.pictures if picture.file in measured}
    if not pictures:
        return Looks((), {}, unreadable)
    judged = _judge([{**measured[file], **_shape(picture)} for file, picture in pictures.items()])
    flags = {kind: list(compress(pictures, judged[f"is_{kind}_issue"].astype(bool))) for kind in JUDGED}
    scores = {kind: dict(zip(pictures, judged[f"{kind}_score"].tolist(), strict=True)) for kind in JUDGED}
    flags["blurry"] = sorted({*flags["blurry"], *_unsharp(pictures, {*flags["dark"], *flags["low_information"]})})
    flags["odd_size"] = _odd_sizes(flags["odd_size"], pictures)
    flags |= _mixed(flags.pop("grayscale"), list(pictures))
    usual = {kind: len(own) / len(pictures) for kind, own in flags.items() if len(own) > USUAL * len(pictures)}
    faults = [_fault(file, kind, scores) for kind, own in flags.items() if kind not in usual for file in own]
    return Looks(tuple(sorted(faults, key=lambda own: (own.kind, own.score, own.file))), usual, unreadable)


def _measure(dataset: Dataset, file: str) -> Measures | None:
    try:
        picture = reduced(dataset.original(file))
    except (LensmountError, OSError):
        return None
    measures: Measures = {}
    properties = ImagePropertyIssueManager().image_properties
    for kind in MEASURED:
        measures |= properties[kind].calculate(picture)
    return measures


def reduced(pixels: Pixels, side: int = LARGEST_SIDE) -> Image.Image:
    """The picture with `side` pixels on its longer side at most; of mode L when it holds no colour."""
    ratio = side / max(pixels.shape[:2])
    if ratio < 1:
        size = tuple(max(1, round(length * ratio)) for length in pixels.shape[1::-1])
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    spread = pixels.max(2).astype(np.int16) - pixels.min(2)
    picture = Image.fromarray(pixels)
    return picture.convert("L") if int(spread.max()) <= GREY_TOLERANCE else picture


def _shape(picture: Picture) -> Measures:
    """What cleanvision measures of a picture's sides."""
    width, height = picture.facts.width, picture.facts.height
    return {"aspect_ratio": min(width / height, height / width), "size": (width * height) ** 0.5}


def _judge(measures: Sequence[Measures]) -> pd.DataFrame:
    """Scores and flags in the same order, as cleanvision's manager gives them."""
    raw = pd.DataFrame(measures)
    manager = ImagePropertyIssueManager()
    manager.issues = pd.DataFrame(index=raw.index)
    manager.update_issues(raw, list(JUDGED))
    return manager.issues


def _unsharp(pictures: dict[str, Picture], excused: set[str]) -> list[str]:
    """Far less sharp than the rest of their class, and not for want of light or of anything to see."""
    sharpness: dict[tuple[int, ...], list[float]] = {}
    for picture in pictures.values():
        sharpness.setdefault(picture.labels, []).append(picture.facts.sharpness)
    least = {labels: BLURRED * max(float(np.median(own)), LEAST_SHARPNESS) for labels, own in sharpness.items()}
    return [
        file
        for file, picture in pictures.items()
        if file not in excused and picture.facts.sharpness < least[picture.labels]
    ]


def _odd_sizes(files: Sequence[str], pictures: dict[str, Picture]) -> list[str]:
    sides = {file: (picture.facts.width * picture.facts.height) ** 0.5 for file, picture in pictures.items()}
    usual = float(np.median(list(sides.values())))
    return [file for file in files if not usual / ODD_SIZE < sides[file] < usual * ODD_SIZE]


def _mixed(grey: Sequence[str], files: Sequence[str]) -> dict[str, list[str]]:
    """Whichever of grey and coloured is the exception."""
    if len(grey) <= USUAL * len(files):
        return {"grayscale": list(grey)}
    return {"coloured": sorted(set(files) - set(grey))}


def _fault(file: str, kind: str, scores: Mapping[str, Mapping[str, float]]) -> Look:
    return Look(file, kind, 0.0 if kind in {"grayscale", "coloured"} else round(float(scores[kind][file]), 4))
