"""Served logits are compared with the trainer's on the scale of the logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from factories import pictures
from lensmount.errors import IncompatibleError
from lensmount_adapters.golden import TOLERANCE, Golden, compare_logits, read_golden, write_golden


def golden(scale: float = 10.0) -> Golden:
    logits = torch.tensor([[1.0, -0.5, 0.25], [0.0, 0.75, -1.0]]) * scale
    return Golden(pictures(2), logits)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    shots = (*pictures(1, size=(30, 40)), *pictures(9, seed=2), *pictures(3, seed=3, size=(20, 10)))
    logits = torch.randn(len(shots), 4)
    write_golden(tmp_path, Golden(shots, logits))
    read = read_golden(tmp_path)
    assert torch.equal(read.logits, logits)
    assert len(read.pictures) == 13
    assert all(np.array_equal(*pair) for pair in zip(read.pictures, shots, strict=True))


@pytest.mark.parametrize("precision", sorted(TOLERANCE))
@pytest.mark.parametrize("scale", [0.1, 1.0, 1000.0])
def test_the_tolerance_is_relative_to_the_largest_logit_and_no_less_than_to_one(precision: str, scale: float) -> None:
    own = golden(scale)
    allowed = TOLERANCE[precision] * max(scale, 1.0)
    near, far = own.logits.clone(), own.logits.clone()
    near[1, 2] += 0.9 * allowed
    far[1, 2] += 1.1 * allowed
    assert compare_logits(own, near, precision) == pytest.approx(0.9 * TOLERANCE[precision], rel=1e-2)
    with pytest.raises(IncompatibleError, match="differ from the trainer's") as caught:
        compare_logits(own, far, precision)
    assert caught.value.field == "golden check"
    assert caught.value.fix


def test_equal_logits_differ_by_nothing() -> None:
    assert compare_logits(golden(), golden().logits, "fp32") == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_served_logit_that_is_no_number_fails(value: float) -> None:
    served = golden().logits.clone()
    served[0, 0] = value
    with pytest.raises(IncompatibleError):
        compare_logits(golden(), served, "bf16")


def test_logits_of_two_pictures_that_trade_places_fail() -> None:
    with pytest.raises(IncompatibleError):
        compare_logits(golden(), golden().logits.flip(0), "bf16")
