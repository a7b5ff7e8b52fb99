"""The clock that a test camera shows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rtsp_server import BITS, UNIT_NS, Shape, clock_row, drawn_at_s

NOW_NS = 1_790_000_000_123_456_789


@given(st.integers(0, 3_600_000_000_000), st.sampled_from([320, 640, 1280, 1920]))
def test_a_picture_tells_when_it_was_drawn(age_ns: int, width: int) -> None:
    row = clock_row(NOW_NS - age_ns, width)
    assert len(row) == width
    drawn_s = drawn_at_s(list(row), NOW_NS / 1e9)
    assert abs(drawn_s - (NOW_NS - age_ns) / 1e9) <= 2 * UNIT_NS / 1e9


def test_a_shape_travels_as_words() -> None:
    shape = Shape(1280, 720, 30, clock=True)
    assert Shape.parse(str(shape)) == shape
    assert shape.width // BITS == 40
