"""How long a strategy trains, by arithmetic: pictures times passes times the measured seconds of each segment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lensmount_adapters.backbones import Backbone
from lensmount_training.chooser import LORA
from lensmount_training.data.listing import Listing
from lensmount_training.depth import usual_depths
from lensmount_training.menu import strategy_of
from lensmount_training.recipe import Recipe
from lensmount_training.split import shares_of
from lensmount_training.strategies import FineTune, Lora
from lensmount_training.strategies.lora import RANKS
from lensmount_training.strategies.schedule import Schedule

# A step backward costs about two forward.
BOTH_WAYS = 3


@dataclass(frozen=True)
class Sizes:
    """Pictures of each part as the split will have them, about; `smallest` are the smallest class's to train on."""

    train: int
    validation: int
    sealed: int
    smallest: int


@dataclass(frozen=True)
class Span:
    """What is done, and its seconds at least and at most."""

    what: str
    low: float
    high: float


@dataclass(frozen=True)
class Costs:
    """Seconds of every segment for a picture, and how many pictures pass; `cached` unless augmentation changes pixels.

    In every epoch the training pictures go both ways through the tail, those to choose by go forward.
    """

    segments: tuple[float, ...]
    sizes: Sizes
    views: int
    cached: bool

    def prefix(self, fork: int) -> float:
        """To compute what enters the tail, once."""
        pictures = self.sizes.validation + (self.sizes.train * self.views if self.cached else 0)
        return sum(self.segments[:fork]) * pictures

    def descent(self, fork: int, epochs: int) -> float:
        """To train what lies from `fork` on."""
        tail = (BOTH_WAYS * self.sizes.train + self.sizes.validation) * sum(self.segments[fork:])
        again = 0.0 if self.cached else self.sizes.train * sum(self.segments[:fork])
        return epochs * (tail + again)


def sizes_of(listing: Listing) -> Sizes:
    """By class for single-label data; with several labels a picture by the whole, which comes near."""
    counts = Counter(label for entry in listing.entries for label in entry.labels)
    single = listing.kind == "single_label"
    parts = [shares_of(count) for count in (counts.values() if single else (len(listing.entries),))]
    train, validation, sealed = (sum(own[part] for own in parts) for part in ("train", "validation", "test"))
    return Sizes(train, validation, sealed, min(shares_of(counts[label])["train"] for label in listing.labels))


def trained(
    recipe: Recipe, name: str, sizes: Sizes, backbone: Backbone, seconds: Sequence[float], *, full: bool
) -> Span:
    """What a strategy beyond the baseline does, and how long; `seconds` are those of each segment for a picture."""
    strategy = strategy_of(recipe, name, recipe.last if isinstance(recipe.last, int) else None, full=full)
    if not isinstance(strategy, FineTune | Lora):
        return Span("", 0.0, 0.0)
    costs = Costs(tuple(seconds), sizes, len(recipe.views), cached=not strategy.augment.anything)
    epochs = _epochs(strategy.schedule, sizes.train)
    if isinstance(strategy, FineTune):
        return _unfreezing(strategy.forks(backbone), costs, epochs)
    ranks = len(RANKS) if strategy.rank is None and recipe.tries_ranks else 1
    if name == LORA and recipe.measures_depth:
        return _sweep([len(seconds) - last for last in usual_depths(backbone) if last], costs, epochs, ranks)
    fork = len(seconds) - strategy.depth(backbone)
    what = f"{epochs[1]} epochs of the last {_depths((fork,), costs)}"
    low, high = (costs.prefix(fork) + ranks * costs.descent(fork, own) for own in epochs)
    return Span(f"{what}, at {ranks} ranks" if ranks > 1 else what, low, high)


def _unfreezing(forks: Sequence[int], costs: Costs, epochs: tuple[int, int]) -> Span:
    """Step by step; the first is always taken, a further one only when the one before has helped."""
    least, most = epochs
    low = costs.prefix(forks[0]) + costs.descent(forks[0], least)
    high = sum(costs.prefix(fork) + costs.descent(fork, most) for fork in forks)
    what = f"{most} epochs of the last {_depths(forks, costs)}"
    return Span(f"{what}, one after the other as long as it helps" if len(forks) > 1 else what, low, high)


def _sweep(forks: Sequence[int], costs: Costs, epochs: tuple[int, int], ranks: int) -> Span:
    """Every depth at one rank, what enters all of them in one pass; then ranks at the depth taken, unless it is 0."""
    low, high = (costs.prefix(max(forks)) + sum(costs.descent(fork, own) for fork in forks) for own in epochs)
    what = f"{epochs[1]} epochs of the last {_depths(forks, costs)}"
    if ranks == 1:
        return Span(what, low, high)
    return Span(f"{what}, then {ranks} ranks of one", low, high + ranks * costs.descent(min(forks), epochs[1]))


def _epochs(schedule: Schedule, pictures: int) -> tuple[int, int]:
    """At least, where training stops early, and at most."""
    most = schedule.epochs_for(pictures)
    return min(most, schedule.patience + 1) if schedule.patience else most, most


def _depths(forks: Sequence[int], costs: Costs) -> str:
    count = len(costs.segments)
    *most, last = [str(count - fork) for fork in forks]
    return f"{', '.join(most)} or {last} of {count} segments" if most else f"{last} of {count} segments"
