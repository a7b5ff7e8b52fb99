"""Small problems to learn, on small backbones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from factories import pictures, random_backbone, stacked
from lensmount_adapters.backbones import Backbone
from lensmount_training.data import Pictures
from lensmount_training.data.listing import Kind
from lensmount_training.strategies import Problem


def by_heart(backbone: Backbone, count: int, labels: int = 3, seed: int = 0) -> Pictures:
    """Squares in random colours, classes in turn: there is nothing to learn but each by heart."""
    return Pictures.of(stacked(backbone, pictures(count, seed)), torch.arange(count) % labels)


def hard_problem(name: str = "test_vit", count: int = 24, labels: int = 3) -> Problem:
    """A problem of such pictures, the same to learn from and to choose by."""
    backbone = random_backbone(name)
    parts = by_heart(backbone, count, labels)
    return Problem(backbone, tuple("abcdefgh"[:labels]), parts, parts, seed=0)


def bright_or_dark(backbone: Backbone, count: int, seed: int, kind: Kind = "single_label") -> Pictures:
    """Noise whose brightness tells the class; for multi-label it is one label, and no red in it is another."""
    random = torch.Generator().manual_seed(seed)
    own = backbone.preprocessing
    pixels = torch.randint(0, 64, (count, 3, own.height, own.width), generator=random, dtype=torch.uint8)
    truth = torch.rand(count, 2, generator=random) < 0.5
    pixels[truth[:, 0]] += 128
    if kind == "single_label":
        return Pictures.of(pixels, truth[:, 0].long())
    pixels[truth[:, 1], 0] = 0
    return Pictures.of(pixels, truth.float())


def easy_problem(name: str = "test_vit", kind: Kind = "single_label", count: int = 48) -> Problem:
    """A problem of such pictures, others to choose by."""
    backbone = random_backbone(name)
    labels = ("bright", "no red") if kind == "multi_label" else ("dark", "bright")
    train, validation = (bright_or_dark(backbone, count, seed, kind) for seed in (1, 2))
    return Problem(backbone, labels, train, validation, seed=0, kind=kind)


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """The names of tensors that are not the same to the bit."""
    return {name for name in before if not torch.equal(before[name], after[name])}
