"""Pictures from their pixels on, augmented; the frozen prefix runs without a graph, portion by portion."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lensmount_adapters.backbones import Backbone
from lensmount_training.context import Context
from lensmount_training.data.dataset import Pictures
from lensmount_training.features import PLAIN, VIEWS, at_fork, check_views
from lensmount_training.strategies.augment import Augment, picture_seeds
from lensmount_training.strategies.feed import CachedFeed, Feed
from lensmount_training.strategies.strategy import Problem


@dataclass(frozen=True, eq=False)
class PixelFeed:
    """Each picture in a random view, then augmented; what enters segment `fork` of the backbone."""

    backbone: Backbone
    fork: int
    pictures: Pictures
    labels: int
    views: tuple[str, ...] = PLAIN
    augment: Augment = field(default_factory=Augment)

    @property
    def targets(self) -> Tensor:
        """Of every picture."""
        return self.pictures.targets

    def batch(self, rows: Tensor, seed: int, mine: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pictures float32 (n, 3, height, width), on the device."""
        views = torch.randint(len(self.views), (len(rows),), generator=torch.Generator().manual_seed(seed))[mine]
        own = rows[mine]
        pixels = self.pictures.pixels[own]
        for view in views.unique().tolist():  # type: ignore[no-untyped-call]
            pixels[views == view] = VIEWS[self.views[view]](pixels[views == view])
        changed = self.augment.change(pixels, picture_seeds(seed, own))
        x = self.backbone.preprocessing.normalize(changed.to(self.backbone.device))
        return self.augment.mix(x, self.targets[own].to(x.device), self.labels, seed)

    def plain(self, rows: slice) -> Tensor:
        """Normalised pictures as they are."""
        return self.backbone.preprocessing.normalize(self.pictures.pixels[rows].to(self.backbone.device))

    @torch.no_grad()
    def enter(self, inputs: Tensor) -> Tensor:
        """Through the frozen prefix."""
        for segment in self.backbone.segments[: self.fork]:
            inputs = segment(inputs)
        return inputs


@dataclass(frozen=True, eq=False)
class Feeds:
    """To learn from, and to judge by."""

    train: Feed
    validation: Feed


def feeds(problem: Problem, fork: int, views: tuple[str, ...], augment: Augment, context: Context) -> Feeds:
    """The pictures of a problem for a tail from `fork` on.

    They are cached where they stay the same from epoch to epoch and there is a prefix to save.
    """
    backbone, labels = problem.backbone, len(problem.labels)
    if fork == 0:
        check_views(backbone, views)
        train: Feed = PixelFeed(backbone, 0, problem.train, labels, views, augment)
        return Feeds(train, PixelFeed(backbone, 0, problem.validation, labels))
    validation = CachedFeed(at_fork(backbone, fork, problem.validation, PLAIN, context), backbone.device)
    if augment.anything:
        check_views(backbone, views)
        return Feeds(PixelFeed(backbone, fork, problem.train, labels, views, augment), validation)
    return Feeds(CachedFeed(at_fork(backbone, fork, problem.train, views, context), backbone.device), validation)
