from __future__ import annotations

import time

import numpy as np
import pytest

from lensmount.errors import InvalidInputError, LensmountError, TooLargeError
from lensmount_server.video.raw import raw_frame
from opened import pixels_of

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def test_rgb_arrives_as_sent() -> None:
    before = time.time_ns()
    frame = raw_frame(7, 5, "rgb24", PIXELS.tobytes(), index=3, pts_ns=40)
    assert (pixels_of(frame.picture) == PIXELS).all()
    assert (frame.index, frame.pts_ns) == (3, 40)
    assert before <= frame.capture_time_ns <= time.time_ns()


def test_bgr_is_turned_round() -> None:
    frame = raw_frame(7, 5, "bgr24", PIXELS[:, :, ::-1].tobytes())
    assert (pixels_of(frame.picture) == PIXELS).all()
    assert pixels_of(frame.picture).flags.c_contiguous


def test_the_pixels_may_be_handed_to_torch() -> None:
    assert pixels_of(raw_frame(7, 5, "rgb24", PIXELS.tobytes()).picture).flags.writeable


@pytest.mark.parametrize(
    ("width", "height", "pixel_format", "size", "kind", "field"),
    [
        (0, 5, "rgb24", 0, InvalidInputError, "width"),
        (7, 0, "rgb24", 0, InvalidInputError, "height"),
        (100_000, 5, "rgb24", 15, TooLargeError, "width"),
        (5, 16_385, "rgb24", 15, TooLargeError, "height"),
        (16_384, 16_384, "rgb24", 15, TooLargeError, "width*height"),
        (7, 5, "rgba", 140, InvalidInputError, "pixel_format"),
        (7, 5, "rgb24", 104, InvalidInputError, "data"),
        (7, 5, "bgr24", 106, InvalidInputError, "data"),
    ],
)
def test_what_can_not_be_a_frame_is_refused(
    width: int, height: int, pixel_format: str, size: int, kind: type[LensmountError], field: str
) -> None:
    with pytest.raises(kind) as caught:
        raw_frame(width, height, pixel_format, bytes(size))
    assert caught.value.field == field
    assert caught.value.value
    assert caught.value.fix
