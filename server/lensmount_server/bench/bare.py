"""The same backbone without lensmount's sharing: as it is, and as one merged model for each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_server.bench.rivals import forward, with_head
from lensmount_server.engine.cpu.executor import CpuExecutor
from lensmount_server.engine.cpu.lanes import Lanes
from lensmount_server.engine.cpu.units import Options, Unit, Work
from lensmount_server.engine.lowered import with_tensors
from lensmount_server.engine.ranges import whole


class Bare(Protocol):
    """Runs all pictures of a bench."""

    def base(self, adapter: Adapter) -> Tensor:
        """Through the bare backbone and the adapter's head."""
        ...

    def merged(self, adapters: Sequence[Adapter]) -> list[Tensor]:
        """Through every adapter's own merged model."""
        ...

    def close(self) -> None:
        """End the threads."""
        ...


class CompiledBare:
    """Compiled whole by the executor's own compiler, side by side on the same lanes."""

    def __init__(self, executor: CpuExecutor, pictures: Tensor) -> None:
        self._backbone = executor.backbone
        self._compiler = executor.compiler
        self._options = Options(executor.options.buckets)
        self._pictures = pictures
        self._whole = whole(self._backbone)
        self._unit = self._compiler.compile(self._whole, self._options)
        self._lanes = Lanes(self._compiler.lanes)
        self._models: dict[str, Unit] = {}

    @torch.inference_mode()
    def base(self, adapter: Adapter) -> Tensor:
        """Through the bare backbone and the adapter's head."""
        (features,) = self._lanes.run([Work(self._unit, self._pictures)])
        logits: Tensor = adapter.head(self._backbone.pool(features))
        return logits

    @torch.inference_mode()
    def merged(self, adapters: Sequence[Adapter]) -> list[Tensor]:
        """Through every adapter's own merged model."""
        outs = self._lanes.run([Work(self._model(adapter), self._pictures) for adapter in adapters])
        return [a.head(self._backbone.pool(out)) for a, out in zip(adapters, outs, strict=True)]

    def close(self) -> None:
        """End the threads."""
        self._lanes.close()

    def _model(self, adapter: Adapter) -> Unit:
        if adapter.content_hash not in self._models:
            tensors = adapter.merged(self._backbone.model)
            self._models[adapter.content_hash] = self._compiler.compile(self._whole, self._options, tensors)
        return self._models[adapter.content_hash]


class EagerBare:
    """timm's models, eager, on whatever device the backbone is on, in `dtype`."""

    def __init__(self, backbone: Backbone, pictures: Tensor, dtype: torch.dtype) -> None:
        self._backbone = backbone
        self._dtype = dtype
        self._x = backbone.preprocessing.normalize(pictures.to(backbone.device)).to(dtype)
        self._models: dict[str, nn.Module] = {}

    def base(self, adapter: Adapter) -> Tensor:
        """Through the bare backbone and the adapter's head."""
        return forward(self._model(f"base {adapter.content_hash}", adapter, merge=False), self._x)

    def merged(self, adapters: Sequence[Adapter]) -> list[Tensor]:
        """Through every adapter's own merged model, one after the other."""
        return [forward(self._model(a.content_hash, a, merge=True), self._x) for a in adapters]

    def close(self) -> None:
        """There are no threads."""

    def _model(self, key: str, adapter: Adapter, *, merge: bool) -> nn.Module:
        if key not in self._models:
            model = with_head(self._backbone, adapter.head)
            tensors = adapter.merged(self._backbone.model) if merge else {}
            self._models[key] = with_tensors(model, tensors).to(self._dtype)
        return self._models[key]
