"""A stand-in runs while the context is open, and the module is as it was afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lensmount.errors import ServerError
from lensmount_server.engine.cuda.forwards import standing_in


@pytest.fixture
def model() -> nn.Module:
    return nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(3, 4)})


def zeros(x: Tensor) -> Tensor:
    return torch.zeros(len(x), 4)


def untouched(model: nn.Module) -> bool:
    return not any("forward" in module.__dict__ for module in model.modules())


@torch.inference_mode()
def test_the_stand_in_runs_in_its_place_only(model: nn.Module) -> None:
    a, b, x = model.get_submodule("a"), model.get_submodule("b"), torch.randn(2, 3)
    plain = a(x)
    with standing_in(model, {"a": zeros}):
        assert not a(x).any()
        assert b(x).any()
    assert untouched(model)
    assert torch.equal(a(x), plain)


def test_a_module_that_did_not_run_is_an_error(model: nn.Module) -> None:
    with pytest.raises(ServerError, match="did not run") as caught, standing_in(model, {"a": zeros, "b": zeros}):
        model.get_submodule("a")(torch.randn(2, 3))
    assert caught.value.value == "b"
    assert untouched(model)


def test_the_error_inside_comes_out_and_the_module_is_as_it_was(model: nn.Module) -> None:
    with pytest.raises(ZeroDivisionError), standing_in(model, {"a": zeros}):
        raise ZeroDivisionError
    assert untouched(model)


def test_an_error_of_the_stand_in_names_the_module(model: nn.Module) -> None:
    def refuse(_: Tensor) -> Tensor:
        raise ServerError("rows can not be told apart in this module", field="rows")

    with pytest.raises(ServerError, match="told apart") as caught, standing_in(model, {"b": refuse}):
        model.get_submodule("b")(torch.randn(2, 3))
    assert (caught.value.field, caught.value.value) == ("module", "b")
    assert untouched(model)


def test_a_name_that_the_model_lacks_changes_nothing(model: nn.Module) -> None:
    with pytest.raises(AttributeError), standing_in(model, {"a": zeros, "absent": zeros}):
        pass
    assert untouched(model)
