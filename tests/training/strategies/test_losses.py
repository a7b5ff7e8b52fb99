"""The loss is PyTorch's own, and its parts add up to it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from factories import random_backbone
from lensmount_training.data import Pictures
from lensmount_training.data.listing import Kind
from lensmount_training.strategies import Problem
from lensmount_training.strategies.losses import Loss, hits

WEIGHTS = torch.tensor([0.5, 2.0, 1.0])


def drawn(seed: int, count: int, kind: Kind) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, 3, generator=random)
    if kind == "multi_label":
        return logits, (torch.rand(count, 3, generator=random) < 0.4).float()
    return logits, torch.randint(3, (count,), generator=random)


@given(st.integers(1, 20), st.sampled_from([0.0, 0.1]), st.integers(0, 99))
def test_single_label_is_weighted_cross_entropy(count: int, smoothing: float, seed: int) -> None:
    logits, targets = drawn(seed, count, "single_label")
    expected = F.cross_entropy(logits, targets, WEIGHTS, label_smoothing=smoothing)
    torch.testing.assert_close(Loss("single_label", WEIGHTS, smoothing).mean(logits, targets), expected)


@given(st.integers(1, 20), st.integers(0, 99))
def test_multi_label_is_binary_cross_entropy(count: int, seed: int) -> None:
    logits, targets = drawn(seed, count, "multi_label")
    expected = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=WEIGHTS)
    torch.testing.assert_close(Loss("multi_label", WEIGHTS).mean(logits, targets), expected)


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
@given(count=st.integers(2, 20), cut=st.integers(1, 19), seed=st.integers(0, 99))
def test_parts_add_up(kind: Kind, count: int, cut: int, seed: int) -> None:
    loss = Loss(kind, WEIGHTS, 0.1)
    logits, targets = drawn(seed, count, kind)
    parts = [loss.total(logits[own], targets[own]) for own in (slice(cut), slice(cut, None))]
    masses = [loss.mass(targets[own]) for own in (slice(cut), slice(cut, None))]
    torch.testing.assert_close(sum(parts) / sum(masses), loss.mean(logits, targets))


def test_shares_of_one_class_are_that_class() -> None:
    logits, targets = drawn(1, 12, "single_label")
    loss = Loss("single_label", WEIGHTS, 0.1)
    torch.testing.assert_close(loss.total(logits, F.one_hot(targets, 3).float()), loss.total(logits, targets))


def test_weights_are_the_problem_s_unless_they_are_not_wanted() -> None:
    pictures = Pictures.of(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 0, 0, 1]))
    problem = Problem(random_backbone("test_vit"), ("a", "b"), pictures, pictures, seed=0)
    assert Loss.of(problem).weights.tolist() == pytest.approx([4 / 6, 2.0])
    assert Loss.of(problem, weighted=False).weights.tolist() == [1, 1]


def test_hits() -> None:
    logits = torch.tensor([[1.0, -1.0], [-1.0, 2.0], [1.0, 0.5]])
    assert hits("single_label", logits, torch.tensor([0, 0, 0])).tolist() == [1, 0, 1]
    multi = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert hits("multi_label", logits, multi).tolist() == [1, 0, 0.5]
