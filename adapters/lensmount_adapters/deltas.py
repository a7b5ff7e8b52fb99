"""LoRA inside a pass: each adapter's delta is added to its own rows, and to no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lensmount.errors import ServerError
from lensmount_adapters.lora import LoraDelta


@dataclass(frozen=True, eq=False)
class RowDelta:
    """One adapter's delta for one module, on rows `start` to `stop` of the pass."""

    start: int
    stop: int
    delta: LoraDelta


@contextmanager
def added(model: nn.Module, deltas: Mapping[str, Sequence[RowDelta]], rows: int) -> Iterator[None]:
    """While open, every module of `deltas` adds to the named rows of its output; `rows` are in the pass.

    Raises ServerError when a module with a delta did not run: the answer would lack the edit.
    """
    ran: set[str] = set()
    modules = {name: model.get_submodule(name) for name in deltas}
    handles = [_hook(modules[name], name, parts, rows, ran) for name, parts in deltas.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if missed := sorted(set(deltas) - ran):
        raise ServerError("an edited module did not run in its segment", field="module", value=missed[0])


def _hook(module: nn.Module, name: str, parts: Sequence[RowDelta], rows: int, ran: set[str]) -> RemovableHandle:
    def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        x: Tensor = inputs[0]
        for part in parts:
            own = _slice(part, x.shape[0], rows, name)
            output[own] += part.delta.of(module, x[own])
        ran.add(name)

    return module.register_forward_hook(add)


def _slice(part: RowDelta, length: int, rows: int, name: str) -> slice:
    """Where the part's rows lie in a module's input; all of it when there are no other rows."""
    if (part.start, part.stop) == (0, rows):
        return slice(None)
    share, rest = divmod(length, rows)
    if rest:
        raise ServerError("rows can not be told apart in this module", field="module", value=name)
    return slice(part.start * share, part.stop * share)
