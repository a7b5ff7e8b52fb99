"""The rank of a truncation, by what it costs on pictures: the smallest one that loses no more than is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.importing.original import Forward, timm_with
from lensmount_adapters.importing.pictures import Pictures
from lensmount_adapters.importing.plan import changes, linear_head, merged_weights
from lensmount_adapters.importing.trained import Trained
from lensmount_adapters.importing.truncation import Change
from lensmount_adapters.lora import MAX_RANK
from lensmount_adapters.preprocessing import Preprocessing

BATCH = 16
RANKS = tuple(2**power for power in range(9) if 2**power <= MAX_RANK)


@dataclass(frozen=True)
class Trial:
    """One rank: bytes of A and B, shares of decisions that agree with the original's and that are right.

    `accuracy` is None for pictures without labels; `difference` is the largest of a logit, relative to the largest
    logit of the original; `loss` is what counts: of accuracy where labels are known, of agreement otherwise.
    """

    rank: int
    size_bytes: int
    agreement: float
    accuracy: float | None
    difference: float
    loss: float
    chosen: bool = False


def logits_of(forward: Forward, rows: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Logits (n, labels) of prepared rows, uint8 (n, 3, height, width)."""
    return torch.cat([forward(preprocessing.normalize(part)) for part in torch.split(rows, BATCH)])


def accuracy_of(logits: Tensor, pictures: Pictures) -> float | None:
    """The share of pictures whose largest logit is their label's; None without labels."""
    if pictures.targets is None:
        return None
    return float((logits.argmax(1) == pictures.targets).double().mean())


def try_ranks(
    change: Change, backbone: Backbone, pictures: Pictures, original: Tensor, preprocessing: Preprocessing, kind: str
) -> Iterator[Trial]:
    """Every rank from the lowest on, up to the first at which nothing of a weight is lost."""
    for rank in RANKS:
        trained = change.at(rank)
        logits = logits_of(truncated(trained, backbone), pictures.rows, preprocessing)
        yield judge(rank, trained, logits, original, pictures, kind)
        if rank >= change.full_rank:
            return


def choose(trials: Iterator[Trial], max_loss: float, seen: Callable[[Trial], object]) -> int:
    """The first rank that loses no more than `max_loss`; `seen` gets every trial up to it.

    Raises InvalidInputError when no rank is good enough.
    """
    losses: dict[int, float] = {}
    for trial in trials:
        seen(trial)
        losses[trial.rank] = trial.loss
        if trial.loss <= max_loss:
            return trial.rank
    told = ", ".join(f"{rank} loses {loss:.4f}" for rank, loss in losses.items())
    message, fix = f"no rank loses so little: {told}", "import it with --as replaced, or allow more"
    raise InvalidInputError(message, field="max-loss", value=max_loss, fix=fix)


def judge(rank: int, trained: Trained, logits: Tensor, original: Tensor, pictures: Pictures, kind: str) -> Trial:
    """How far the logits of a rank are from the original's."""
    agreement = float(_agree(logits, original, kind).double().mean())
    accuracy, before = accuracy_of(logits, pictures), accuracy_of(original, pictures)
    loss = 1 - agreement if accuracy is None or before is None else max(before - accuracy, 0.0)
    scale = max(float(original.abs().max()), 1.0)
    difference = float((logits - original).abs().max()) / scale
    numbers = sum(own.a.numel() + own.b.numel() for own in trained.modules.values())
    return Trial(rank, 4 * numbers, agreement, accuracy, difference, loss)


def truncated(trained: Trained, backbone: Backbone) -> Forward:
    """Timm's model with what a truncation keeps, merged into its weights."""
    head = {f"{backbone.classifier}.{name}": own for name, own in linear_head(trained, backbone).items()}
    tensors = {**merged_weights(trained.modules, backbone), **changes(trained, backbone), **head}
    return timm_with(backbone, tensors, len(head[f"{backbone.classifier}.weight"]))


def _agree(logits: Tensor, original: Tensor, kind: str) -> Tensor:
    if kind == "multi_label":
        return ((logits > 0) == (original > 0)).all(1)
    return logits.argmax(1) == original.argmax(1)
