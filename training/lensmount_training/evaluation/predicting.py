"""Logits of whole pictures, nothing cached: the way a server answers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.answering import answer
from lensmount_adapters.backbones import Backbone
from lensmount_training.data import Pictures
from lensmount_training.memory import Portions
from lensmount_training.progress import Bar


@torch.no_grad()
def predict(forward: Callable[[Tensor], Tensor], backbone: Backbone, pictures: Pictures, bar: Bar) -> Tensor:
    """Logits float32 (n, labels) of a model that takes normalised rows.

    Raises InvalidInputError when the memory is not enough for one picture; so do all here.
    """
    return _in_batches(lambda rows: forward(backbone.preprocessing.normalize(rows.to(backbone.device))), pictures, bar)


def predict_adapter(adapter: Adapter, backbone: Backbone, pictures: Pictures, bar: Bar) -> Tensor:
    """Logits float32 (n, labels) of an adapter, as the reference engine computes them in batches of this size."""
    return _in_batches(lambda rows: answer(adapter, backbone, rows), pictures, bar)


def _in_batches(logits: Callable[[Tensor], Tensor], pictures: Pictures, bar: Bar) -> Tensor:
    def portion(rows: slice) -> Tensor:
        return logits(pictures.pixels[rows]).float().cpu()

    parts: list[Tensor] = []
    for part in Portions().walk(len(pictures), portion):
        parts.append(part)
        bar.advance(len(part))
    return torch.cat(parts)
