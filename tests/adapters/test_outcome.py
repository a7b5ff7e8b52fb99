"""From logits to probabilities and the decision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from factories import manifest, random_backbone
from lensmount_adapters.manifest import Manifest
from lensmount_adapters.outcome import decide, decide_rows, probabilities

BACKBONE = random_backbone()


def described(**changes: Any) -> Manifest:
    return manifest(BACKBONE, "t", 3, **changes)


SINGLE = described()
MULTI = described(kind="multi_label")
logits_of_rows = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=5).map(
    torch.tensor
)
temperatures = st.floats(1e-3, 1e3)


def test_a_single_label_task_gets_softmax() -> None:
    scores = probabilities(SINGLE, torch.tensor([[1.0, 2.0, 3.0]]))[0]
    total = sum(math.exp(x) for x in (1, 2, 3))
    assert scores.tolist() == pytest.approx([math.exp(x) / total for x in (1, 2, 3)])


def test_a_multi_label_task_gets_sigmoid() -> None:
    scores = probabilities(MULTI, torch.tensor([[0.0, 2.0, -2.0]]))[0]
    assert scores.tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))])


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_the_temperature_divides_the_logits(kind: str) -> None:
    logits = torch.tensor([[1.0, -4.0, 2.5]])
    warm = probabilities(described(kind=kind, temperature=2.0), logits)
    assert torch.equal(warm, probabilities(described(kind=kind), logits / 2))
    assert not torch.equal(warm, probabilities(described(kind=kind), logits))


@given(logits=logits_of_rows, temperature=temperatures)
def test_probabilities_are_probabilities(logits: torch.Tensor, temperature: float) -> None:
    for kind in ("single_label", "multi_label"):
        scores = probabilities(described(kind=kind, temperature=temperature), logits)
        assert scores.shape == logits.shape
        assert bool(((scores >= 0) & (scores <= 1)).all())
    single = probabilities(described(temperature=temperature), logits)
    assert torch.allclose(single.sum(dim=-1), torch.ones(len(logits)), atol=1e-5)


@given(logits=logits_of_rows, temperature=temperatures)
def test_the_temperature_never_changes_which_label_is_best(logits: torch.Tensor, temperature: float) -> None:
    scores = probabilities(described(temperature=temperature), logits)
    best = logits.gather(1, scores.argmax(dim=1, keepdim=True))
    assert torch.allclose(best, logits.max(dim=1, keepdim=True).values, atol=1e-2 * max(temperature, 1))


def test_half_precision_logits_give_float32() -> None:
    assert probabilities(SINGLE, torch.zeros(1, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_best_label_is_decided_the_first_of_equals() -> None:
    assert decide(SINGLE, (0.2, 0.5, 0.3)) == ("t-1",)
    assert decide(SINGLE, (0.4, 0.2, 0.4)) == ("t-0",)


def test_equal_thresholds_leave_a_single_label_task_to_the_best_score() -> None:
    assert decide(described(thresholds=[0.9, 0.9, 0.9]), (0.3, 0.4, 0.3)) == ("t-1",)
    assert decide(described(thresholds=[0.0, 0.0, 0.0]), (0.3, 0.4, 0.3)) == ("t-1",)


def test_a_single_label_task_takes_the_label_that_is_best_against_its_threshold() -> None:
    task = described(thresholds=[0.6, 0.2, 0.2])
    assert decide(task, (0.59, 0.2, 0.21)) == ("t-2",)
    assert decide(task, (0.61, 0.2, 0.19)) == ("t-0",)
    assert decide(task, (0.6, 0.2, 0.2)) == ("t-0",)


def test_a_threshold_of_zero_counts_as_a_tiny_one() -> None:
    task = described(thresholds=[0.5, 0.0, 0.5])
    assert decide(task, (0.98, 1e-4, 0.0199)) == ("t-1",)
    assert decide(task, (1.0, 0.0, 0.0)) == ("t-0",)


@given(
    logits=logits_of_rows,
    kind=st.sampled_from(["single_label", "multi_label"]),
    thresholds=st.just([]) | st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
def test_rows_are_decided_as_each_alone(logits: torch.Tensor, kind: str, thresholds: list[float]) -> None:
    task = described(kind=kind, thresholds=thresholds)
    scores = probabilities(task, logits)
    rows = decide_rows(kind, thresholds, scores)
    assert rows.shape == logits.shape
    for row, own in zip(rows.tolist(), scores.tolist(), strict=True):
        chosen = tuple(label for label, is_chosen in zip(task.labels, row, strict=True) if is_chosen)
        assert chosen == decide(task, tuple(own))


@given(logits=logits_of_rows, temperature=temperatures)
def test_without_thresholds_the_best_score_is_decided(logits: torch.Tensor, temperature: float) -> None:
    scores = probabilities(described(temperature=temperature), logits)
    for own in scores.tolist():
        assert decide(SINGLE, tuple(own)) == (SINGLE.labels[own.index(max(own))],)
    assert torch.equal(decide_rows("single_label", [], scores).int().argmax(1), scores.argmax(1))


def test_every_label_at_or_above_a_half_is_decided() -> None:
    assert decide(MULTI, (0.5, 0.49, 0.9)) == ("t-0", "t-2")
    assert decide(MULTI, (0.1, 0.2, 0.3)) == ()


def test_thresholds_are_each_labels_own() -> None:
    task = described(kind="multi_label", thresholds=[0.9, 0.1, 0.3])
    assert decide(task, (0.89, 0.1, 0.5)) == ("t-1", "t-2")
    assert decide(task, (0.9, 0.09, 0.29)) == ("t-0",)
