"""Pixels are changed by their own seeds, and mixing tells how much of which label is in a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import random_backbone
from lensmount.errors import InvalidInputError
from lensmount_training.processes import Processes
from lensmount_training.strategies.augment import Augment, picture_seeds
from lensmount_training.strategies.pixel_feed import PixelFeed
from problems import by_heart


@pytest.mark.parametrize(
    ("field", "value"), [("randaugment", 31), ("randaugment", -1), ("mixup", -0.1), ("cutmix", float("inf"))]
)
def test_numbers_out_of_range(field: str, value: float) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Augment(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


def test_nothing_is_the_default() -> None:
    pixels, targets = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8), torch.arange(4)
    assert not Augment().anything
    assert Augment().change(pixels, [1, 2, 3, 4]) is pixels
    assert Augment().mix(pixels.float(), targets, 4, 7)[1] is targets


def test_a_picture_is_changed_by_its_own_seed_alone() -> None:
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seeds = picture_seeds(5, torch.arange(4))
    augment = Augment(randaugment=15)
    torch.manual_seed(1)
    whole = augment.change(pixels, seeds)
    single = augment.change(pixels[2:3], seeds[2:3])
    assert torch.equal(whole[2:3], single)
    assert not torch.equal(whole, pixels)
    torch.manual_seed(1)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    augment.change(pixels, seeds)
    assert torch.equal(drawn, torch.rand(1))


@settings(max_examples=30)
@given(count=st.integers(1, 9), seed=st.integers(0, 2**62), kind=st.sampled_from(["mixup", "cutmix"]))
def test_shares_tell_what_is_in_a_picture(count: int, seed: int, kind: str) -> None:
    """Each picture is one grey of its own, so the mean of a mixture says how much of both is in it."""
    targets = torch.arange(count)
    x = targets.float().view(-1, 1, 1, 1).expand(count, 3, 16, 16) + 1
    augment = Augment(mixup=0.8) if kind == "mixup" else Augment(cutmix=0.8)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    mixed, shares = augment.mix(x, targets, count, seed)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]  # noqa: NPY002
    torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ (targets.float() + 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shares.sum(1), torch.ones(count))
    torch.testing.assert_close(shares.sum(0), torch.ones(count))  # so the mass of a batch stays what it was


def test_many_labels_are_mixed_as_they_are() -> None:
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    _, shares = Augment(mixup=0.8).mix(torch.zeros(2, 3, 8, 8), targets, 2, 3)
    assert shares[:, 0].tolist() == pytest.approx([1, 1])
    assert 0 < float(shares[0, 1]) < 1
    assert float(shares[:, 1].sum()) == pytest.approx(1)


@pytest.mark.parametrize("augment", [Augment(), Augment(randaugment=9), Augment(mixup=0.5, cutmix=0.5)])
@pytest.mark.parametrize("length", [7, 8])
def test_shares_of_processes_are_the_batch_of_one(augment: Augment, length: int) -> None:
    backbone = random_backbone("test_vit")
    feed = PixelFeed(backbone, 0, by_heart(backbone, 10), 3, ("identity", "hflip"), augment)
    rows = torch.randperm(10, generator=torch.Generator().manual_seed(1))[:length]
    alone = Processes().mine(length)
    x, targets = feed.batch(rows, 11, alone)
    place = {int(row): index for index, row in enumerate(alone)}
    seen = []
    for rank in range(3):
        mine = Processes(rank, 3).mine(length)
        own_x, own_targets = feed.batch(rows, 11, mine)
        where = [place[int(position)] for position in mine]
        torch.testing.assert_close(own_x, x[where])
        torch.testing.assert_close(own_targets, targets[where])
        seen += mine.tolist()
    assert sorted(seen) == list(range(length))
