"""Trying an adapter out before it answers anybody, beside the engine and not in its way."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from lensmount.errors import IncompatibleError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.heads import run_head
from lensmount_server.engine.lowered import twin
from lensmount_server.engine.mixed import run_tail
from lensmount_server.engine.plan import Group
from lensmount_server.engine.probes import Probes
from lensmount_server.engine.ranges import SegmentRange


class Trial:
    """Runs one random picture through adapters, in LoRA form; for any number of threads.

    `computing` is the backbone in the precision that serves. Deltas are added by hooks on modules,
    so a trial has modules of its own, over the same tensors as the engine's.
    """

    def __init__(self, backbone: Backbone, computing: Backbone, probes: Probes) -> None:
        self._backbone = backbone
        self._computing = twin(computing)
        self._probes = probes
        self._turn = threading.Lock()

    def check(self, adapter: Adapter, features: Tensor | None = None) -> None:
        """Raise IncompatibleError for an adapter whose logits are no numbers; `features` are its own, if known."""
        features = self.features(adapter) if features is None else features
        with torch.inference_mode():
            logits = run_head(adapter.head, self._backbone, features, self._backbone.pool(features))
        if not bool(torch.isfinite(logits).all()):
            message, fix = "it answers with NaN or infinity", "train it again with a lower learning rate"
            raise IncompatibleError(message, field="warm-up", value=adapter.content_hash[:12], fix=fix)

    @torch.inference_mode()
    def features(self, adapter: Adapter) -> Tensor:
        """What the adapter's segments make of the random picture, float32."""
        range_ = SegmentRange(adapter.fork, len(self._backbone.segments), adapter.manifest.preprocessing)
        x = self._probes.at(range_)[:1]
        if not len(range_):
            return x
        group = Group(adapter, (0,))
        with self._turn:
            return run_tail(self._computing, [(group, x)])[group]
