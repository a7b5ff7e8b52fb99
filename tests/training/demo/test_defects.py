import numpy as np
import pytest

from lensmount.errors import InvalidInputError
from lensmount_training.demo.boxes import Box
from lensmount_training.demo.defects import DEFECTS, PATCH, Stroke, draw
from lensmount_training.demo.surfaces import Pixels

KINDS = [kind for kind in DEFECTS if kind != "ok"]


def drawn(kind: str, seed: int, strength: float = 0.5) -> tuple[Pixels, Box | None]:
    pixels = np.full((400, 470, 3), 120, np.float32)
    box = draw(kind, pixels, (230, 190), Stroke(strength, np.random.default_rng(seed)))
    return pixels, box


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_what_changes_lies_in_the_box_and_the_box_around_what_changes(kind: str, strength: float) -> None:
    for seed in range(15):
        pixels, box = drawn(kind, seed, strength)
        assert box is not None
        rows, columns = np.nonzero(np.abs(pixels - 120).max(axis=2) > 12)
        slack = 8
        assert box.left - slack <= columns.min() <= box.left + slack
        assert box.right - slack <= columns.max() + 1 <= box.right + slack
        assert box.top - slack <= rows.min() <= box.top + slack
        assert box.bottom - slack <= rows.max() + 1 <= box.bottom + slack


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_defect_is_larger_in_sum_than_a_weak_one(kind: str) -> None:
    def change(strength: float) -> float:
        return sum(float(np.abs(drawn(kind, seed, strength)[0] - 120).sum()) for seed in range(8))

    assert change(1.0) > 1.5 * change(0.0)


def test_kinds_differ_and_seeds_differ() -> None:
    seen = {drawn(kind, seed)[0].tobytes() for kind in KINDS for seed in range(3)}
    assert len(seen) == 3 * len(KINDS)


def test_the_same_dice_draw_the_same_defect() -> None:
    for kind in KINDS:
        assert np.array_equal(drawn(kind, 7)[0], drawn(kind, 7)[0])


def test_ok_changes_nothing() -> None:
    pixels, box = drawn("ok", 0)
    assert box is None
    assert (pixels == 120).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_defect_reaches_the_edge_of_its_patch(kind: str) -> None:
    for seed in range(30):
        _, box = drawn(kind, seed, 1.0)
        assert box is not None
        assert max(box.right - box.left, box.bottom - box.top) < PATCH - 4


def test_an_unknown_kind_and_a_place_at_the_edge_are_refused() -> None:
    pixels, stroke = np.zeros((400, 470, 3), np.float32), Stroke(0.5, np.random.default_rng(0))
    with pytest.raises(InvalidInputError, match=r"dent.*ok, scratch, stain, hole"):
        draw("dent", pixels, (200, 200), stroke)
    for centre in ((PATCH / 2 - 1, 200), (470 - PATCH / 2 + 1, 200), (200, PATCH / 2 - 1), (200, 400 - PATCH / 2 + 1)):
        with pytest.raises(InvalidInputError, match="stay"):
            draw("hole", pixels, centre, stroke)
