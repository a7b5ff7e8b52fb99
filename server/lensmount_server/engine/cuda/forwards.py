"""A module's forward, replaced while a segment runs and given back after it, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from lensmount.errors import ServerError

Forward = Callable[[Tensor], Tensor]


@contextmanager
def standing_in(model: nn.Module, forwards: Mapping[str, Forward]) -> Iterator[None]:
    """While open, the modules of these names run these forwards.

    Raises ServerError when one of them did not run: the answer would lack the edit.
    """
    ran: set[str] = set()
    modules = {name: model.get_submodule(name) for name in forwards}
    for name, forward in forwards.items():
        # Set on the instance it shadows the class's forward; the weights are never touched.
        modules[name].__dict__["forward"] = _noted(name, forward, ran)
    try:
        yield
    finally:
        for module in modules.values():
            module.__dict__.pop("forward", None)
    if missed := sorted(set(forwards) - ran):
        raise ServerError("an edited module did not run in its segment", field="module", value=missed[0])


def _noted(name: str, forward: Forward, ran: set[str]) -> Forward:
    def run(x: Tensor) -> Tensor:
        ran.add(name)
        try:
            return forward(x)
        except ServerError as error:
            raise ServerError(error.message, field="module", value=name) from error

    return run
