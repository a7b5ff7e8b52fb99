"""How the clip's camera moves along the plates and how the light changes on its way."""

from __future__ import annotations

from collections.abc import Iterator
from math import pi, sin

from lensmount_training.demo.camera import Light, Pose
from lensmount_training.demo.plates import HEIGHT, PITCH

_MOVING = 0.26
"""Share of the time that the camera spends between two plates."""

_DRIFT = 0.12
"""Share of the way that it drifts while it looks at one."""


def journey(plates: int, frames_per_plate: int) -> Iterator[tuple[Pose, Light]]:
    """A pose and a light for each of plates × frames_per_plate frames; plate i's frames come i-th.

    Slow at each plate, quick between two, with the small sway, turn and breathing of
    a camera on an arm.
    """
    for frame in range(plates * frames_per_plate):
        time = (frame + 0.5) / frames_per_plate
        plate = frame // frames_per_plate
        x = (plate + 0.5 + _offset(time - plate - 0.5)) * PITCH
        yield _pose(x, time), _light(time)


def _offset(time: float) -> float:
    """Way from a plate's middle, in pitches, for -0.5 (between it and the one before) to 0.5: an odd function."""
    drifted = _DRIFT * time
    since_rest = max(0.0, abs(time) - (0.5 - _MOVING / 2)) / _MOVING
    quick = (1 - _DRIFT) * _smooth(since_rest)
    return drifted + (quick if time > 0 else -quick)


def _smooth(share: float) -> float:
    """From 0 to 1 with no jerk at either end."""
    return share**3 * (share * (6 * share - 15) + 10)


def _pose(x: float, time: float) -> Pose:
    return Pose(
        x=x + 3 * sin(2 * pi * 0.43 * time),
        y=HEIGHT / 2 + 7 * sin(2 * pi * 0.31 * time + 1),
        turn=0.9 * sin(2 * pi * 0.23 * time),
        zoom=1 + 0.02 * sin(2 * pi * 0.37 * time + 2),
    )


def _light(time: float) -> Light:
    gain = 1.0 + 0.09 * sin(2 * pi * 0.11 * time) + 0.02 * sin(2 * pi * 1.7 * time)
    slope = (0.14 * sin(2 * pi * 0.07 * time), 0.1 * sin(2 * pi * 0.05 * time + 1))
    return Light(gain, slope)
