"""Logits come back whole, with one copy and one wait for all of a batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lensmount_server.engine.cuda.transfer import Fetch, PinnedDownload

Sizes = list[tuple[int, int]]


class Late:
    """A copy that has not happened before somebody waits for it."""

    def __init__(self) -> None:
        self.waits = 0

    def __call__(self, there: Tensor, here: Tensor) -> Callable[[], None]:
        here.fill_(float("nan"))

        def wait() -> None:
            self.waits += 1
            here.copy_(there)

        return wait


class Lost(Late):
    """One that nobody waits for."""

    def __call__(self, there: Tensor, here: Tensor) -> Callable[[], None]:
        super().__call__(there, here)
        return lambda: None


def batch(sizes: Sizes, start: float = 0.0) -> list[Tensor]:
    return [
        torch.arange(rows * labels).reshape(rows, labels) + start + 100 * i for i, (rows, labels) in enumerate(sizes)
    ]


def same(got: list[Tensor], sent: list[Tensor]) -> bool:
    return len(got) == len(sent) and all(map(torch.equal, got, sent))


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 6)), max_size=6), max_size=5))
def test_every_batch_comes_back_as_it_was_and_stays_so(batches: list[Sizes]) -> None:
    late = Late()
    fetch = Fetch(late)
    sent = [batch(sizes, start) for start, sizes in enumerate(batches)]
    got = [fetch(tensors) for tensors in sent]
    assert all(map(same, got, sent))
    assert late.waits == sum(map(bool, batches))


def test_a_copy_that_is_not_waited_for_would_be_caught() -> None:
    sent = batch([(2, 3), (1, 2)])
    assert not same(Fetch(Lost())(sent), sent)


@pytest.mark.gpu
@torch.inference_mode()
def test_a_device_that_is_busy_is_waited_for(device: torch.device) -> None:
    fetch = Fetch(PinnedDownload(device))
    batches = []
    for start in range(6):
        torch.cuda._sleep(20_000_000)  # type: ignore[no-untyped-call] # torch types it not
        there = [tensor.to(device) * 2 for tensor in batch([(4, 3), (2, 5)], start)]
        batches.append((fetch(there), there))
    assert all(same(got, [tensor.cpu() for tensor in there]) for got, there in batches)
