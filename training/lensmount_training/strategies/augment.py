"""Augmentation of pixels: RandAugment by torchvision, mixup and CutMix by timm, drawn from seeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, v2

from lensmount.errors import InvalidInputError
from lensmount_training.strategies.seeds import seed_at

STRONGEST = 30


@dataclass(frozen=True)
class Augment:
    """What is done to pixels before they enter the backbone; nothing by default.

    `randaugment` is the magnitude, 1 to 30, of two random operations (arXiv 1909.13719); `mixup` (arXiv 1710.09412)
    and `cutmix` (arXiv 1905.04899) are the alphas of their Beta distributions. Of the last two, where both are
    wanted, every batch gets one.
    """

    randaugment: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        """Raise InvalidInputError for a number out of range."""
        if not 0 <= self.randaugment <= STRONGEST:
            fix = f"give a magnitude from 1 to {STRONGEST}, or 0 for none"
            raise InvalidInputError("out of range", field="randaugment", value=self.randaugment, fix=fix)
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < float("inf"):
                fix = "give an alpha such as 0.2, or 0 for none"
                raise InvalidInputError("0 or more expected", field=name, value=getattr(self, name), fix=fix)

    @property
    def anything(self) -> bool:
        """Whether pixels are changed at all: then no activation can be cached."""
        return bool(self.randaugment or self.mixup or self.cutmix)

    def change(self, pixels: Tensor, seeds: list[int]) -> Tensor:
        """RandAugment of uint8 (n, 3, height, width), each picture by its own seed."""
        if not self.randaugment:
            return pixels
        operations = v2.RandAugment(2, self.randaugment, 31, InterpolationMode.BILINEAR)
        changed = torch.empty_like(pixels)
        with torch.random.fork_rng(devices=()):
            for place, seed in enumerate(seeds):
                torch.manual_seed(seed)
                changed[place] = operations(pixels[place])
        return changed

    def mix(self, x: Tensor, targets: Tensor, labels: int, seed: int) -> tuple[Tensor, Tensor]:
        """Mix each picture (n, 3, height, width) with its opposite in the batch; the middle of an odd one stays.

        Targets become shares (n, labels).
        """
        if not (self.mixup or self.cutmix):
            return x, targets
        shares = targets if targets.is_floating_point() else F.one_hot(targets, labels).float()
        even = len(x) - len(x) % 2
        if not even:
            return x, shares
        # Told that every picture is a class of its own, timm says how much of which picture is in each.
        mixing = Mixup(self.mixup, self.cutmix, label_smoothing=0.0, num_classes=even)
        with _numpy_seeded(seed):
            mixed, parts = mixing(x[:even].clone(), torch.arange(even, device=x.device))
        return torch.cat([mixed, x[even:]]), torch.cat([parts.to(shares) @ shares[:even], shares[even:]])


def picture_seeds(seed: int, rows: Tensor) -> list[int]:
    """A seed for each picture of a batch."""
    return [seed_at(seed, row) for row in rows.tolist()]


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Timm draws from numpy's global generator, which others must find as it was."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
