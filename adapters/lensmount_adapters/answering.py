"""One adapter on its backbone in fp32, without a server: the arithmetic of the reference engine, to the bit.

LoRA edits are added to the outputs of their modules, replaced segments run with the adapter's tensors. On the same
machine, with as many threads and the same rows in a batch, the logits have the very bits that the reference engine
gives (`tests/adapters/test_answering.py`). A batch of another size may take another path through the machine's
linear algebra and differ in the last bits: `answer_each` runs every picture alone, as the golden check does.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone, Segment
from lensmount_adapters.deltas import RowDelta, added
from lensmount_adapters.heads import run_head
from lensmount_adapters.pictures import Pixels


@torch.inference_mode()
def answer(adapter: Adapter, backbone: Backbone, rows: Tensor) -> Tensor:
    """Logits float32 (rows, labels), on the CPU, of prepared pictures: uint8 (rows, 3, height, width), one batch.

    Not for two threads at once on one backbone: edits hang on its modules while a segment runs.
    """
    x = adapter.manifest.preprocessing.normalize(rows.to(backbone.device))
    return logits_of(adapter, backbone, run_segments(adapter, backbone, x)).cpu()


def answer_each(adapter: Adapter, backbone: Backbone, pictures: Iterable[Pixels]) -> Tensor:
    """Logits float32 (pictures, labels) of uint8 RGB (h, w, 3), each prepared and run alone; see `answer`."""
    prepare = adapter.manifest.preprocessing.prepare
    return torch.cat([answer(adapter, backbone, prepare(pixels)[None]) for pixels in pictures])


def run_segments(adapter: Adapter, backbone: Backbone, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
    """What enters segment `stop` (behind the last by default), from what enters segment `start`; gradients flow."""
    for index, segment in list(enumerate(backbone.segments))[start:stop]:
        x = run_segment(adapter, segment, index, x)
    return x


def run_segment(adapter: Adapter, segment: Segment, index: int, x: Tensor) -> Tensor:
    """Segment number `index` as the adapter has it, on rows of its own."""
    if index in adapter.replaced:
        return segment.run_replaced(dict(adapter.replaced[index]), x)
    edits = adapter.lora.get(index, {})
    deltas = {name: [RowDelta(0, len(x), delta)] for name, delta in edits.items()}
    with added(segment.model, deltas, len(x)):
        return segment(x)


def logits_of(adapter: Adapter, backbone: Backbone, features: Tensor) -> Tensor:
    """Logits (rows, labels) of what the last segment gave."""
    return run_head(adapter.head, backbone, features, backbone.pool(features))
