"""A delta is added to its own rows, to nothing else, and never silently left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lensmount.errors import ServerError
from lensmount_adapters.deltas import RowDelta, added
from lensmount_adapters.lora import LoraDelta


class Windows(nn.Module):
    """Cuts each row into two windows before a Linear, as Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        windows: Tensor = self.inner(x.reshape(-1, 2, 3))
        return windows.reshape(x.shape[0], 2, 2, 4)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Conv2d(3, 4, 3, padding=1), "w": Windows()})


def delta(seed: int, *, convolution: bool = False) -> LoraDelta:
    random = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 3, generator=random), torch.randn(4, 2, generator=random)
    if convolution:
        a, b = a[:, :, None, None].expand(2, 3, 3, 3), b[:, :, None, None]
    return LoraDelta(a, b, 0.5, torch.randn(4, generator=random) if seed % 2 else None)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["a", "b"])
def test_rows_get_their_own_delta_and_others_stay_as_they_are_to_the_bit(model: nn.Module, name: str) -> None:
    module = model.get_submodule(name)
    first, second = delta(1, convolution=name == "b"), delta(2, convolution=name == "b")
    x = torch.randn((6, 3) if name == "a" else (6, 3, 5, 5))
    plain = module(x)
    with added(model, {name: [RowDelta(1, 2, first), RowDelta(3, 5, second)]}, rows=6):
        got = module(x)
    assert torch.equal(got[[0, 2, 5]], plain[[0, 2, 5]])
    assert torch.allclose(got[1:2], plain[1:2] + first.of(module, x[1:2]), atol=1e-5)
    assert torch.allclose(got[3:5], plain[3:5] + second.of(module, x[3:5]), atol=1e-5)
    assert not torch.allclose(got[1:2], plain[1:2], atol=1e-2)
    assert torch.equal(module(x), plain)


@torch.inference_mode()
def test_rows_that_are_cut_into_windows_are_followed(model: nn.Module) -> None:
    windows = model.get_submodule("w")
    x = torch.randn(3, 4, 3)
    plain = windows(x)
    with added(model, {"w.inner": [RowDelta(1, 2, delta(1))]}, rows=3):
        got = windows(x)
    assert torch.equal(got[[0, 2]], plain[[0, 2]])
    expected = plain[1] + delta(1).of(windows.get_submodule("inner"), x[1].reshape(2, 2, 3))
    assert torch.allclose(got[1], expected, atol=1e-5)


def test_a_module_that_did_not_run_is_an_error(model: nn.Module) -> None:
    with (
        pytest.raises(ServerError, match="did not run") as caught,
        added(model, {"a": [RowDelta(0, 1, delta(1))], "b": [RowDelta(0, 1, delta(1, convolution=True))]}, rows=1),
    ):
        model.get_submodule("a")(torch.randn(1, 3))
    assert caught.value.field == "module"
    assert caught.value.value == "b"
    assert no_hooks(model)


def test_rows_that_can_not_be_told_apart_are_an_error(model: nn.Module) -> None:
    parts = [RowDelta(0, 1, delta(1)), RowDelta(1, 2, delta(2))]
    with pytest.raises(ServerError, match="can not be told apart") as caught, added(model, {"a": parts}, rows=2):
        model.get_submodule("a")(torch.randn(5, 3))
    assert caught.value.value == "a"
    assert no_hooks(model)


@torch.inference_mode()
def test_one_adapter_alone_needs_no_rows_told_apart(model: nn.Module) -> None:
    module, x = model.get_submodule("a"), torch.randn(5, 3)
    plain = module(x)
    with added(model, {"a": [RowDelta(0, 2, delta(1))]}, rows=2):
        got = module(x)
    assert torch.allclose(got, plain + delta(1).of(module, x), atol=1e-5)


def test_the_error_inside_comes_out_and_the_hooks_are_gone(model: nn.Module) -> None:
    with pytest.raises(ZeroDivisionError), added(model, {"a": [RowDelta(0, 1, delta(1))]}, rows=1):
        raise ZeroDivisionError
    assert no_hooks(model)


def test_a_module_that_the_model_lacks_leaves_no_hook(model: nn.Module) -> None:
    deltas = {"a": [RowDelta(0, 1, delta(1))], "absent": [RowDelta(0, 1, delta(1))]}
    with pytest.raises(AttributeError), added(model, deltas, rows=1):
        pass
    assert no_hooks(model)


def no_hooks(model: nn.Module) -> bool:
    return not any(module._forward_hooks for module in model.modules())
