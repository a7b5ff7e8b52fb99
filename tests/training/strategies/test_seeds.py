"""Randomness by place."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lensmount_training.strategies.seeds import generator_at, seed_at

seeds = st.integers(0, 2**63 - 1)


@given(seeds, st.integers(0, 999), st.integers(0, 999))
def test_a_place_has_one_seed_and_neighbours_have_others(seed: int, epoch: int, step: int) -> None:
    own = seed_at(seed, epoch, step)
    assert own == seed_at(seed, epoch, step)
    assert 0 <= own < 2**63
    assert (
        len({own, seed_at(seed, epoch, step + 1), seed_at(seed, epoch + 1, step), seed_at(seed + 1, epoch, step)}) == 4
    )


def test_what_was_drawn_before_does_not_matter() -> None:
    first = torch.rand(3, generator=generator_at(1, 2))
    torch.rand(100)
    assert torch.equal(first, torch.rand(3, generator=generator_at(1, 2)))
