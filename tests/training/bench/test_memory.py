"""The peak is that of the work alone."""

from __future__ import annotations

import os
from functools import partial

import pytest

from lensmount_training.bench.memory import MIB, peak_mib


def test_what_the_work_takes() -> None:
    """Random bytes, because zeros take no memory before they are touched."""
    assert peak_mib(partial(partial, os.urandom, 100 * MIB)) == pytest.approx(100, abs=4)


def test_work_that_takes_nothing() -> None:
    assert peak_mib(partial(partial, int)) < 4


def test_what_the_work_raises_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        peak_mib(partial(partial, divmod, 1, 0))
