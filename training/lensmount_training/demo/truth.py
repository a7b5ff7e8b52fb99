"""What is to be seen in a frame: the rule, and the truth of a whole clip as it is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lensmount_training.demo.boxes import Box
from lensmount_training.demo.defects import OK

MODEL_VIEW = 0.875
"""Share of a frame's shorter side that the model sees (its crop_pct), around the middle."""


@dataclass(frozen=True)
class FrameTruth:
    """The right answers for one frame: `surface` and `defect` are labels of the two tasks."""

    surface: str
    defect: str


@dataclass(frozen=True)
class ClipTruth:
    """The right answers for a clip, in the order in which its frames are decoded."""

    frames: tuple[FrameTruth, ...]

    def labels(self, task: str) -> tuple[str, ...]:
        """The right label of every frame for `surface` or `defect`."""
        return tuple(frame.surface if task == "surface" else frame.defect for frame in self.frames)


def model_view(height: int, width: int) -> Box:
    """The square in the middle of a frame that the model sees, in pixels."""
    half = MODEL_VIEW * min(height, width) / 2
    return Box(width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)


def defect_seen(defects: Mapping[Box, str], height: int, width: int) -> str:
    """The kind of which at least half the box is in the model's view, else `ok`; of several, the fullest in view."""
    view = model_view(height, width)
    share, kind = max(((box.share_inside(view), kind) for box, kind in defects.items()), default=(0.0, OK))
    return kind if share >= 0.5 else OK


def write_truth(truth: ClipTruth, path: Path) -> None:
    """Stores a truth as JSON."""
    path.write_text(json.dumps(asdict(truth)) + "\n")


def read_truth(path: Path) -> ClipTruth:
    """Reads what `write_truth` stored."""
    return ClipTruth(tuple(FrameTruth(**frame) for frame in json.loads(path.read_text())["frames"]))
