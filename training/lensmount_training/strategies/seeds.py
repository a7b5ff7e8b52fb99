"""Randomness by place, not by history.

Every draw comes from the seed and the place where it is made (epoch, step, picture), never from what was drawn before.
So a run that is taken up again, and one that is shared out among processes, draws what the whole run would have.
"""

from __future__ import annotations

import numpy as np
import torch


def seed_at(seed: int, *place: int) -> int:
    """A number of 63 bits for a place (numpy's SeedSequence, which mixes well even for neighbours)."""
    state = np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def generator_at(seed: int, *place: int) -> torch.Generator:
    """A generator of its own for a place."""
    return torch.Generator().manual_seed(seed_at(seed, *place))
