"""What people run today, in its best form: timm as it is, PEFT as its documentation says, one merged model a task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.timing import Rounds, in_turns
from lensmount_server.engine.lowered import DTYPES

Run = Callable[[], object]
TRIAL_ROUNDS = 3
PRECISIONS = ("fp32", "bf16")


def timm_forms(backbone: Backbone, head: nn.Module, pictures: Tensor) -> dict[str, Run]:
    """Timm's own model with a classifier, eager, in every precision and memory format; its input is ready made."""
    forms: dict[str, Run] = {}
    for precision in PRECISIONS:
        dtype = DTYPES[precision]
        for name, memory_format in (("", torch.contiguous_format), (" channels-last", torch.channels_last)):
            model = with_head(backbone, head).to(dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload]
            x = backbone.preprocessing.normalize(pictures).to(dtype=dtype, memory_format=memory_format)
            forms[f"{precision}{name}"] = partial(forward, model, x)
    return forms


def best_of(forms: dict[str, Run]) -> tuple[str, Run]:
    """The form that is fastest here, found in a few rounds."""
    rounds: Rounds | None = None
    for rounds in in_turns(forms, TRIAL_ROUNDS):  # noqa: B007 - the last one holds all
        pass
    best = min(forms, key=lambda name: rounds.of(name).median) if rounds else next(iter(forms))
    return best, forms[best]


class Peft:
    """The adapters in one PEFT model over the timm model, with the very same weights, in `dtype`."""

    def __init__(self, backbone: Backbone, adapters: Sequence[Adapter], dtype: torch.dtype) -> None:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - a rival, not a part of the server

        self._names = [adapter.manifest.task.replace(".", "-") for adapter in adapters]
        self._heads = [copy.deepcopy(adapter.head).to(dtype) for adapter in adapters]
        targets = sorted({name for deltas in adapters[0].lora.values() for name in deltas})
        rank = next(iter(next(iter(adapters[0].lora.values())).values())).a.shape[0]
        config = partial(LoraConfig, r=rank, lora_alpha=rank, target_modules=targets)
        model: Any = copy.deepcopy(backbone.model)
        self._model: Any = get_peft_model(model, config(), adapter_name=self._names[0])
        for name in self._names[1:]:
            self._model.add_adapter(name, config())
        for name, adapter in zip(self._names, adapters, strict=True):
            self._fill(name, adapter)
        self._model.eval().to(backbone.device, dtype)

    @torch.inference_mode()
    def mixed(self, x: Tensor) -> list[Tensor]:
        """Every adapter on every row of `x`, in one batch with `adapter_names`."""
        names = [name for name in self._names for _ in range(len(x))]
        pooled = self._model(x.repeat(len(self._names), 1, 1, 1), adapter_names=names)
        return [head(rows) for head, rows in zip(self._heads, pooled.split(len(x)), strict=True)]

    @torch.inference_mode()
    def one_by_one(self, x: Tensor) -> list[Tensor]:
        """Every adapter on every row of `x`, with `set_adapter` between."""
        logits = []
        for name, head in zip(self._names, self._heads, strict=True):
            self._model.set_adapter(name)
            logits.append(head(self._model(x)))
        return logits

    def _fill(self, name: str, adapter: Adapter) -> None:
        for deltas in adapter.lora.values():
            for path, delta in deltas.items():
                layer = self._model.base_model.model.get_submodule(path)
                layer.lora_A[name].weight.data.copy_(delta.a)
                layer.lora_B[name].weight.data.copy_(delta.b)


def with_head(backbone: Backbone, head: nn.Module) -> nn.Module:
    """A copy of timm's model with this classifier in its place."""
    model: Any = copy.deepcopy(backbone.model)
    parent, _, name = backbone.classifier.rpartition(".")
    setattr(model.get_submodule(parent), name, copy.deepcopy(head))
    return model.eval()  # type: ignore[no-any-return]


@torch.inference_mode()
def forward(model: nn.Module, x: Tensor) -> Tensor:
    """One forward pass."""
    logits: Tensor = model(x)
    return logits
