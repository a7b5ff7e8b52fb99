"""What lies in a slot is the adapter whose hash found it: padded, in its own place, whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from factories import fitted, lora_package, random_backbone, replaced_package
from lensmount.errors import NotFoundError, UnavailableError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.lora import LoraDelta
from lensmount_server.engine.cuda.slots import Slots


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("test_vit")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> tuple[Adapter, ...]:
    """LoRA of rank 4 and of rank 20 in the same segment, and a replaced segment."""
    folder = tmp_path_factory.mktemp("adapters")
    lora_package(folder / "0", backbone, rank=4, seed=0)
    lora_package(folder / "1", backbone, rank=20, seed=1)
    replaced_package(folder / "2" / "package", backbone, seed=2)
    return tuple(fitted(folder / str(i) / "package", backbone) for i in range(3))


def edit_in(slots: Slots, module: str, slot: int) -> Tensor:
    """B A as the kernel would multiply it, (out, in)."""
    stack = slots.stack(module)
    return stack.scale[slot] * stack.b[slot].float() @ stack.a[slot].float()


def edits_of(adapter: Adapter) -> dict[str, Tensor]:
    return {name: delta.scale * delta.b @ delta.a for edits in adapter.lora.values() for name, delta in edits.items()}


def holds(slots: Slots, slot: int, adapter: Adapter) -> bool:
    return all(torch.allclose(edit_in(slots, name, slot), edit, atol=1e-5) for name, edit in edits_of(adapter).items())


def test_two_adapters_of_different_rank_lie_side_by_side(backbone: Backbone, adapters: tuple[Adapter, ...]) -> None:
    slots = Slots(backbone.model, 3, torch.float32)
    with slots.leased(adapters[:2]) as held:
        one, other = (held[adapter.content_hash] for adapter in adapters[:2])
        assert holds(slots, one, adapters[0])
        assert holds(slots, other, adapters[1])
        assert not holds(slots, other, adapters[0])
        assert {slots.stack(name).rank for name in edits_of(adapters[0])} == {32}


def test_the_next_adapter_finds_nothing_of_the_last_one(backbone: Backbone, adapters: tuple[Adapter, ...]) -> None:
    """The first edits fewer modules and has a smaller rank than what lay in the slot before."""
    slots = Slots(backbone.model, 1, torch.float32)
    slots.load(adapters[1])
    ((index, edits),) = adapters[0].lora.items()
    kept, *gone = edits
    small = replace(adapters[0], content_hash="f" * 64, lora={index: {kept: edits[kept]}})
    with slots.leased([small]) as held:
        assert holds(slots, held[small.content_hash], small)
        assert all(not edit_in(slots, name, 0).any() for name in gone)
        assert not slots.stack(kept).a[0, 4:].any()


def test_replaced_tensors_come_in_the_precision_and_go_with_the_adapter(
    backbone: Backbone, adapters: tuple[Adapter, ...]
) -> None:
    slots = Slots(backbone.model, 2, torch.bfloat16)
    with slots.leased([adapters[2], adapters[0]]) as held:
        slot = held[adapters[2].content_hash]
        ((index, tensors),) = adapters[2].replaced.items()
        own = slots.replaced(slot, index)
        assert own is not None
        assert own.keys() == tensors.keys()
        assert {tensor.dtype for tensor in own.values()} == {torch.bfloat16}
        assert slots.replaced(slot, index - 1) is None
        assert slots.replaced(held[adapters[0].content_hash], index) is None
    before = slots.bytes
    slots.drop(adapters[2].content_hash)
    assert before - slots.bytes == 2 * sum(tensor.numel() for tensor in tensors.values())


def test_memory_is_what_the_tensors_take(backbone: Backbone, adapters: tuple[Adapter, ...]) -> None:
    slots = Slots(backbone.model, 3, torch.float16)
    assert slots.bytes == 0
    slots.load(adapters[0])
    edits = edits_of(adapters[0]).values()
    sides, outs = sum(sum(edit.shape) for edit in edits), sum(len(edit) for edit in edits)
    assert slots.bytes == 3 * (2 * 16 * sides + 2 * outs + 4 * len(edits))


def test_a_bias_leaves_its_slot_with_its_adapter(
    backbone: Backbone, adapters: tuple[Adapter, ...], tmp_path: Path
) -> None:
    lora_package(tmp_path, backbone, bias="lora_only")
    biased = fitted(tmp_path / "package", backbone)
    slots = Slots(backbone.model, 1, torch.float32)
    slots.load(biased)
    ((_, edits),) = biased.lora.items()
    for name, delta in edits.items():
        assert delta.bias is not None
        assert torch.equal(slots.stack(name).bias[0], delta.bias)
    slots.load(adapters[1])  # of a larger rank: the stacks grow
    assert not any(slots.stack(name).bias.any() for name in edits)


def test_a_leased_adapter_is_not_overwritten(backbone: Backbone, adapters: tuple[Adapter, ...]) -> None:
    slots = Slots(backbone.model, 1, torch.float32)
    with slots.leased([adapters[0]]) as held:
        with pytest.raises(UnavailableError, match="pinned or in use"):
            slots.load(adapters[1])
        assert holds(slots, held[adapters[0].content_hash], adapters[0])
    slots.load(adapters[1])
    assert list(slots.table.residents) == [adapters[1].content_hash]


def test_a_half_loaded_adapter_is_not_there(backbone: Backbone, adapters: tuple[Adapter, ...]) -> None:
    slots = Slots(backbone.model, 1, torch.float32)
    ((index, edits),) = adapters[0].lora.items()
    *_, last = edits
    misfit = LoraDelta(edits[last].a[:, :5], edits[last].b, 1.0)
    wrong = replace(adapters[0], content_hash="f" * 64, lora={index: {**edits, last: misfit}})
    with pytest.raises(RuntimeError):
        slots.load(wrong)
    assert slots.table.residents == {}
    with pytest.raises(NotFoundError):
        slots.drop(wrong.content_hash)
    with slots.leased([adapters[1]]) as held:
        assert holds(slots, held[adapters[1].content_hash], adapters[1])


def test_what_was_leased_is_free_again_after_an_error(backbone: Backbone, adapters: tuple[Adapter, ...]) -> None:
    slots = Slots(backbone.model, 2, torch.float32)
    with pytest.raises(ZeroDivisionError), slots.leased(adapters[:2]):
        raise ZeroDivisionError
    assert [slots.table.users(adapter.content_hash) for adapter in adapters[:2]] == [0, 0]
