"""The temperature is the likelihood's own, within its bounds, and changes no decision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from lensmount_training.data.listing import Kind
from lensmount_training.evaluation.calibration import LEAST, MOST, Calibration, fit_temperature, nll
from lensmount_training.evaluation.scores import decisions

KINDS: tuple[Kind, ...] = ("single_label", "multi_label")
tables = st.lists(st.lists(st.integers(-200, 200), min_size=3, max_size=3), min_size=2, max_size=30)


def drawn(kind: Kind, temperature: float, count: int = 4000) -> tuple[Tensor, Tensor]:
    """Logits that are too sure by `temperature`, and targets."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(count, 3, generator=random) * 2
    if kind == "multi_label":
        return logits * temperature, torch.bernoulli(logits.sigmoid(), generator=random)
    return logits * temperature, torch.multinomial(logits.softmax(1), 1, generator=random)[:, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_it_finds_by_how_much_logits_are_too_sure(kind: Kind, temperature: float) -> None:
    found, note = fit_temperature(*drawn(kind, temperature), kind)
    assert found == pytest.approx(temperature, rel=0.1)
    assert not note


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_temperature_is_better(kind: Kind) -> None:
    logits, targets = drawn(kind, 2.5, 300)
    found, _ = fit_temperature(logits, targets, kind)
    least = float(nll(logits, targets, kind, found).sum())
    grid = [float(nll(logits, targets, kind, float(t)).sum()) for t in np.logspace(-3, 3, 400)]
    assert least <= min(grid) + 1e-9


@given(table=tables, kind=st.sampled_from(KINDS), data=st.data())
def test_it_stays_in_its_bounds_and_is_never_worse_than_none(
    table: list[list[int]], kind: Kind, data: st.DataObject
) -> None:
    logits = torch.tensor(table) / 10
    rows = st.lists(st.integers(0, 2), min_size=len(table), max_size=len(table))
    targets = torch.tensor(data.draw(rows))
    if kind == "multi_label":
        targets = F.one_hot(targets, 3).float()
    found, _ = fit_temperature(logits, targets, kind)
    assert LEAST <= found <= MOST
    assert float(nll(logits, targets, kind, found).sum()) <= float(nll(logits, targets, kind).sum()) + 1e-9
    before, after = (decisions(logits, kind, Calibration(t)) for t in (1.0, found))
    top, rest = logits.topk(2, 1).values.T
    clear = ((top - rest) > 1e-3).numpy() if kind == "single_label" else (logits.abs() > 1e-3).numpy().all(1)
    shown = found < 100  # a temperature of hundreds rounds different probabilities to the same
    assert not shown or bool((before == after)[clear].all())


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_that_are_all_right_fit_nothing(kind: Kind) -> None:
    logits = torch.tensor([[5.0, -5, -5], [-5, 5, -5]])
    targets = torch.tensor([0, 1]) if kind == "single_label" else (logits > 0).float()
    found, note = fit_temperature(logits, targets, kind)
    assert found == 1
    assert "too easy" in note


def test_an_adapter_that_is_always_wrong_becomes_unsure() -> None:
    logits = torch.tensor([[5.0, -5, -5], [-5, 5, -5]])
    found, _ = fit_temperature(logits, torch.tensor([1, 0]), "single_label")
    assert found == pytest.approx(MOST)
