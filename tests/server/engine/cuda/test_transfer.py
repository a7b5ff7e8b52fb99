"""Copies overlap with what the device does, and no batch is overwritten on its way. Needs a device."""

from __future__ import annotations

import pytest
import torch

from lensmount_server.engine.cuda.transfer import DEPTH, Transfer

pytestmark = pytest.mark.gpu


def picture_batch(number: int, rows: int = 4) -> torch.Tensor:
    return torch.full((rows, 3, 64, 64), number % 256, dtype=torch.uint8)


def test_every_batch_arrives_as_it_was_sent(device: torch.device) -> None:
    transfer = Transfer(device)
    sent = [picture_batch(i, 1 + i % 5) for i in range(8 * DEPTH)]
    there = [transfer.send(batch) for batch in sent]
    assert all(torch.equal(got.cpu(), batch) for got, batch in zip(there, sent, strict=True))


def test_a_caller_may_reuse_its_own_tensor_at_once(device: torch.device) -> None:
    transfer = Transfer(device)
    batch, there = picture_batch(0), []
    for number in range(4 * DEPTH):
        batch.fill_(number)
        there.append(transfer.send(batch))
    assert [int(got.float().mean()) for got in there] == list(range(4 * DEPTH))


def test_the_compute_stream_waits_for_the_copy_while_it_is_busy(device: torch.device) -> None:
    """The device sleeps first, so that copies run far ahead of what reads them."""
    transfer = Transfer(device)
    torch.cuda._sleep(50_000_000)  # type: ignore[no-untyped-call] # torch types it not
    sums = [transfer.send(picture_batch(number)).long().sum() for number in range(4 * DEPTH)]
    assert [int(total) for total in sums] == [number * picture_batch(0).numel() for number in range(4 * DEPTH)]


def test_what_is_there_already_is_not_copied(device: torch.device) -> None:
    there = picture_batch(1).to(device)
    assert Transfer(device).send(there) is there
