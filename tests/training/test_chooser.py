"""What is proposed for which data, and that nothing is kept that is no better than its noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from lensmount_training.chooser import FAR, FEW, MANY, gain, leaves_room, propose


@pytest.mark.parametrize(
    ("smallest", "domain", "names", "full"),
    [
        (50, "near", (), False),
        (50, None, (), False),
        (50, FAR, ("finetune", "lora"), False),
        (FEW, "near", ("finetune", "lora"), False),
        (MANY, "near", ("finetune", "lora"), True),
    ],
)
def test_the_rule_of_thumb(smallest: int, domain: str | None, names: tuple[str, ...], full: bool) -> None:
    proposal = propose(smallest, domain)
    assert (proposal.names, proposal.full) == (names, full)
    assert str(smallest) in proposal.reason


def answers(right: list[bool], targets: Tensor) -> Tensor:
    """Logits of two classes that are right where they should be."""
    called = torch.where(torch.tensor(right), targets, 1 - targets)
    return F.one_hot(called, 2).float()


def test_a_clear_gain_is_kept_and_its_mirror_is_not() -> None:
    targets = torch.arange(200) % 2
    good, bad = answers([True] * 190 + [False] * 10, targets), answers([True] * 150 + [False] * 50, targets)
    won = gain(good, bad, targets, "single_label", 0)
    assert won.difference == pytest.approx(0.2)
    assert won.low < won.difference < won.high
    assert won.kept
    assert not gain(bad, good, targets, "single_label", 0).kept
    assert not gain(good, good, targets, "single_label", 0).kept


def test_one_picture_more_of_twenty_is_noise() -> None:
    targets = torch.arange(20) % 2
    one = gain(
        answers([True] * 16 + [False] * 4, targets),
        answers([True] * 15 + [False] * 5, targets),
        targets,
        "single_label",
        0,
    )
    assert one.difference == pytest.approx(0.05)
    assert not one.kept


def test_what_is_no_better_is_rarely_kept() -> None:
    """The promise of the interval, by simulation: at most about one in twenty of equals is kept."""
    random = np.random.default_rng(0)
    targets = torch.arange(100) % 2
    kept = 0
    for trial in range(200):
        first, second = (answers(list(random.random(100) < 0.8), targets) for _ in range(2))
        kept += gain(first, second, targets, "single_label", trial).kept
    assert kept <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=60), st.integers(0, 5))
def test_the_order_of_pictures_does_not_matter_to_the_difference(pairs: list[tuple[bool, bool]], seed: int) -> None:
    targets = torch.arange(len(pairs)) % 2
    first, second = (answers([pair[i] for pair in pairs], targets) for i in range(2))
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    mine = gain(first, second, targets, "single_label", 0).difference
    assert gain(first[order], second[order], targets[order], "single_label", 0).difference == pytest.approx(mine)


def test_several_labels_a_picture_count_one_by_one() -> None:
    targets = torch.ones(50, 4)
    better, worse = torch.ones(50, 4), torch.ones(50, 4)
    worse[:, 0] = -1
    assert gain(better, worse, targets, "multi_label", 0).difference == pytest.approx(0.25)


@pytest.mark.parametrize(("wrong", "room"), [(0, False), (1, False), (10, True)])
def test_where_nobody_could_be_shown_to_be_better_there_is_no_room(wrong: int, room: bool) -> None:
    targets = torch.arange(40) % 2
    logits = torch.nn.functional.one_hot(targets, 2).float()
    logits[:wrong] = 1 - logits[:wrong]
    assert leaves_room(logits, targets, "single_label", 0) == room
    several = torch.stack((targets, 1 - targets), 1)
    assert leaves_room(logits.flip(1) - 0.5, several, "multi_label", 0) == room
