"""A segment: one step of a backbone's forward pass, `Tensor -> Tensor`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

Step = Callable[[Tensor], Tensor]


class Segment:
    """One step of a backbone: the stem, a block, the final norm.

    `owns` lists the dotted paths (of modules or tensors) in the model that belong to
    this step; `mixable` says that rows of different adapters may share a batch here,
    because every module keeps row r of its input in the r-th equal share of dimension 0.
    """

    def __init__(self, name: str, model: nn.Module, owns: Iterable[str], step: Step, *, mixable: bool = True) -> None:
        self.name = name
        self.model = model
        self.owns = tuple(owns)
        self.mixable = mixable
        self._step = step
        self._swappable = _Swappable(model, step)

    def __call__(self, x: Tensor) -> Tensor:
        """Run the step on `x`: rows in dimension 0, the shape beyond it is the family's own."""
        return self._step(x)

    def owns_tensor(self, name: str) -> bool:
        """Whether the model's parameter or buffer `name` belongs to this step."""
        return any(name == path or name.startswith(f"{path}.") for path in self.owns)

    def run_replaced(self, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        """Run the step with `tensors` (by their names in the model) in place of the model's own."""
        replaced = {f"model.{name}": tensor for name, tensor in tensors.items()}
        result: Tensor = functional_call(self._swappable, replaced, (x,), tie_weights=False)
        return result

    def editable_modules(self) -> dict[str, nn.Module]:
        """The modules that LoRA may edit, by their names in the model: Linear and plain Conv2d."""
        return {
            name: module
            for path in self.owns
            for name, module in _modules_at(self.model, path)
            if type(module) in (nn.Linear, nn.Conv2d)
        }


def _modules_at(model: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The module at a dotted path and all below it, by their names in the model; none where a tensor lies."""
    parent, _, name = path.rpartition(".")
    module = model.get_submodule(parent)._modules.get(name)  # noqa: SLF001 - a tensor at the path is no error
    if module is not None:
        yield from module.named_modules(prefix=path)


class _Swappable(nn.Module):
    """The model as the only child of a module that runs one step, for `functional_call`.

    The step is kept out of the module tree: a tensor that can be reached by two paths would be
    swapped twice and restored wrongly.
    """

    def __init__(self, model: nn.Module, step: Step) -> None:
        super().__init__()
        self.model = model
        self._hidden = (step,)

    def forward(self, x: Tensor) -> Tensor:
        return self._hidden[0](x)


def concatenated(layer: nn.Module) -> Step:
    """A DenseNet layer as a step: its input with its new features behind (Huang et al., arXiv 1608.06993)."""

    def step(x: Tensor) -> Tensor:
        return torch.cat([x, layer(x)], dim=1)

    return step
