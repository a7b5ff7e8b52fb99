"""How long, how fast and in what portions: the numbers of a descent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lensmount.errors import InvalidInputError
from lensmount_training.memory import BATCH

# From the lowest to the highest that a strategy takes by itself: of heads and edits, of unfrozen blocks.
USUAL_RATES, DEEP_RATES = (1e-3, 3e-3), (1e-5, 1e-4)
# Groups of parameters that learn at `learning_rate`.
BY_LEARNING_RATE = {"head", "lora", "all"}


@dataclass(frozen=True)
class Schedule:
    """AdamW with a linear warm-up (a share of all steps) and a cosine down to zero.

    In every epoch each picture is seen once. A small set gets more epochs, so that there are at least `least_steps`
    steps. A step's `batch` runs in portions of `micro_batch` (None: 8 on a CPU, whose caches are small, all at once on
    a GPU). `ema` is the decay of the averaged values that are
    judged and kept, 0 for none; training ends after `patience` epochs without a better one, 0 for never. `bf16`
    computes in mixed precision; None does where it is faster, on a GPU.
    """

    epochs: int = 8
    least_steps: int = 100
    learning_rate: float = 2e-3
    batch: int = 32
    micro_batch: int | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    class_weights: bool = True
    ema: float = 0.0
    patience: int = 0
    bf16: bool | None = None

    def __post_init__(self) -> None:
        """Raise InvalidInputError for a number that can not work."""
        check_rate("learning_rate", self.learning_rate)
        for name in ("epochs", "least_steps", "batch"):
            check_whole(name, getattr(self, name), least=1)
        check_whole("micro_batch", self.portion("cpu"), least=1)
        check_whole("patience", self.patience, least=0)
        for name in ("ema", "label_smoothing", "warmup"):
            check_share(name, getattr(self, name))
        if not 0 <= self.weight_decay < math.inf:
            fix = "give a number such as 0.01, or 0 for none"
            raise InvalidInputError("0 or more expected", field="weight_decay", value=self.weight_decay, fix=fix)

    def epochs_for(self, pictures: int) -> int:
        """How many epochs a training set of so many pictures gets."""
        return max(self.epochs, math.ceil(self.least_steps / math.ceil(pictures / self.batch)))

    def portion(self, device: str) -> int:
        """How many pictures of a batch run at once on this type of device."""
        if self.micro_batch is not None:
            return self.micro_batch
        return BATCH if device == "cpu" else self.batch

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied with at `step` of `steps`, both from 0."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def too_fast(rates: Mapping[str, float]) -> InvalidInputError:
    """The error of a loss that is no number any more, for the rates of a descent by group: what to give instead.

    A tenth of the fastest, or where that is still above every strategy's own rate, the strategy's own.
    """
    fastest = max(rates, key=lambda name: rates[name])
    own = rates[fastest]
    name, usual = ("learning_rate", USUAL_RATES) if fastest in BY_LEARNING_RATE else ("backbone_rate", DEEP_RATES)
    option = f"--{name.replace('_', '-')}"
    fix = f"lower it: {option} {own / 10:g}"
    if own / 10 > usual[-1]:
        fix = f"leave {option} out: the strategy's own, {usual[0]:g} to {usual[-1]:g}, suits most data"
    return InvalidInputError("the loss is no longer a finite number", field=name, value=own, fix=fix)


def check_rate(name: str, value: float, fix: str = "give a number such as 0.001") -> None:
    """Raise InvalidInputError for a rate that is not a number above 0."""
    if not 0 < value < math.inf:
        raise InvalidInputError("above 0 expected", field=name, value=value, fix=fix)


def check_whole(name: str, value: int, *, least: int) -> None:
    """Raise InvalidInputError for less than `least`."""
    if value < least:
        message, fix = f"{least} or more expected", f"give a whole number from {least}"
        raise InvalidInputError(message, field=name, value=value, fix=fix)


def check_share(name: str, value: float) -> None:
    """Raise InvalidInputError for what is not from 0 to below 1."""
    if not 0 <= value < 1:
        raise InvalidInputError(
            "0 to below 1 expected", field=name, value=value, fix="give a share such as 0.1, or 0 for none"
        )
