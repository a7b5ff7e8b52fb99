"""A required recall is met on the validation pictures, at no more cost than it takes; or it is said that it is not."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from torch import Tensor
from torch.nn import functional as F

from lensmount.errors import InvalidInputError
from lensmount_training.data.listing import Kind
from lensmount_training.evaluation import Calibration, score
from lensmount_training.evaluation.required import enough, needed, parse_required
from lensmount_training.evaluation.scores import decisions, truths
from lensmount_training.evaluation.thresholds import calibrate

LABELS = ("crack", "hole", "ok")
KINDS: tuple[Kind, ...] = ("single_label", "multi_label")
recalls = st.dictionaries(st.sampled_from(LABELS), st.floats(0.05, 1), min_size=1)


def noisy(count: int, seed: int, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 3
    return strength * F.one_hot(targets, 3) + torch.randn(count, 3, generator=random), targets


def found(logits: Tensor, targets: Tensor, kind: Kind, calibration: Calibration) -> dict[str, float]:
    return {own.label: own.recall for own in score(logits, targets, LABELS, 0, kind, calibration).classes}


@settings(max_examples=150, deadline=None)
@given(
    table=st.lists(st.lists(st.integers(-100, 100), min_size=3, max_size=3), min_size=3, max_size=40),
    kind=st.sampled_from(KINDS),
    required=recalls,
    data=st.data(),
)
def test_every_recall_is_met_or_it_is_said_which_is_not(
    table: list[list[int]], kind: Kind, required: dict[str, float], data: st.DataObject
) -> None:
    logits = torch.tensor(table) / 10
    targets = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=len(table), max_size=len(table))))
    if kind == "multi_label":
        targets = F.one_hot(targets, 3).float()
    own = calibrate(logits, targets, LABELS, kind, required)
    assert own.requirements == {f"recall.{label}": least for label, least in required.items()}
    reached = found(logits, targets, kind, own)
    for label, least in required.items():
        assert label in own.unmet or reached[label] >= least - 1e-9
    assert not own.unmet or own.notes
    assert all(0 <= threshold <= 1 for threshold in own.thresholds)


@pytest.mark.parametrize("kind", KINDS)
def test_with_pictures_enough_the_recall_holds_on_others_too(kind: Kind) -> None:
    held = 0
    for seed in range(40):
        logits, targets = noisy(900, seed)
        others, truth = noisy(6000, 1000 + seed)
        if kind == "multi_label":
            targets, truth = F.one_hot(targets, 3).float(), F.one_hot(truth, 3).float()
        own = calibrate(logits, targets, LABELS, kind, {"crack": 0.9})
        assert "95 % confidence" in " ".join(own.notes)
        held += found(others, truth, kind, own)["crack"] >= 0.9
    assert held >= 34  # 38 expected; about 20 if no margin were taken


def test_a_single_recall_costs_no_more_than_it_must() -> None:
    """Against every threshold there is: no other that finds as many takes fewer pictures from the rest."""
    logits, targets = noisy(300, 5)
    own = calibrate(logits, targets, LABELS, "single_label", {"crack": 0.9})
    count, margin = needed(100, 0.9)
    assert margin
    true = truths(targets, 3)
    called = decisions(logits, "single_label", own)
    assert count <= int((called & true)[:, 0].sum()) <= count + 1
    best = 0
    for share in np.linspace(0.005, 0.995, 400):
        other = Calibration(own.temperature, (share, (1 - share) / 2, (1 - share) / 2))
        rows = decisions(logits, "single_label", other)
        if (rows & true)[:, 0].sum() >= count:
            best = max(best, int((rows & true)[:, 1:].sum()))
    assert int((called & true)[:, 1:].sum()) >= best - 1


def test_two_recalls_are_met_together_where_they_can() -> None:
    logits, targets = noisy(240, 2, strength=2.0)
    own = calibrate(logits, targets, LABELS, "single_label", {"crack": 0.85, "hole": 0.85})
    assert not own.unmet
    reached = found(logits, targets, "single_label", own)
    assert min(reached["crack"], reached["hole"]) >= 0.85
    assert reached["ok"] < found(logits, targets, "single_label", Calibration())["ok"]


def test_what_can_not_be_met_together_is_said_with_numbers() -> None:
    logits, targets = noisy(120, 2, strength=0.5)
    own = calibrate(logits, targets, LABELS, "single_label", {"crack": 0.95, "hole": 0.95})
    assert set(own.unmet) == {"crack", "hole"}
    assert own.thresholds == ()
    text = " ".join(own.notes)
    assert "can not be met together" in text
    assert "crack alone reaches 0.950" in text
    # Indeed: over a grid of thresholds none meets both.
    for crack, hole in product(np.logspace(-4, 0, 30), repeat=2):
        reached = found(logits, targets, "single_label", Calibration(own.temperature, (crack, hole, 1.0)))
        assert min(reached["crack"], reached["hole"]) < 0.95


def test_few_pictures_get_the_plain_share_and_a_word_about_it() -> None:
    logits, targets = noisy(60, 1)
    own = calibrate(logits, targets, LABELS, "single_label", {"crack": 0.98})
    assert found(logits, targets, "single_label", own)["crack"] == 1
    assert "149 pictures, all found, would be enough" in " ".join(own.notes)


def test_without_requirements_there_are_no_thresholds() -> None:
    logits, targets = noisy(60, 1)
    own = calibrate(logits, targets, LABELS, "single_label")
    assert (own.thresholds, own.requirements, own.unmet) == ((), {}, ())


def test_a_label_that_no_picture_has_is_said() -> None:
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    own = calibrate(logits, torch.arange(20) % 2, LABELS, "single_label", {"ok": 0.5})
    assert own.unmet == ("ok",)
    assert "no validation picture" in own.notes[0]


def test_one_of_two_labels_is_called_from_its_threshold_on() -> None:
    random = torch.Generator().manual_seed(3)
    targets = torch.arange(100) % 2
    logits = F.one_hot(targets, 2) + torch.randn(100, 2, generator=random)
    own = calibrate(logits, targets, ("crack", "ok"), "single_label", {"crack": 0.9})
    said = torch.softmax(logits / own.temperature, 1)[:, 0].double().numpy()
    called = decisions(logits, "single_label", own)[:, 0]
    assert bool((called == (said >= own.thresholds[0])).all())


@given(pictures=st.integers(1, 400), recall=st.floats(0.5, 0.999))
def test_what_is_needed_is_clopper_and_pearsons_bound(pictures: int, recall: float) -> None:
    count, margin = needed(pictures, recall)

    def bound(k: int) -> float:
        return float(beta.ppf(0.05, k, pictures - k + 1)) if k else 0.0

    if margin:
        assert bound(count) >= recall - 1e-9
        assert count == 0 or bound(count - 1) < recall + 1e-9
    else:
        assert bound(pictures) < recall + 1e-9
        assert count - 1 < recall * pictures <= count + 1e-6


def test_how_many_pictures_promise_a_recall() -> None:
    assert [enough(recall) for recall in (0.5, 0.9, 0.98, 1.0)] == [5, 29, 149, None]


def test_how_recalls_are_written() -> None:
    assert parse_required(["crack=0.98", " hole =1"], LABELS) == {"crack": 0.98, "hole": 1.0}
    assert parse_required(["a=b=0.5"], ("a=b",)) == {"a=b": 0.5}


@pytest.mark.parametrize(
    ("texts", "value", "message"),
    [
        (["crack"], "crack", "not a recall"),
        (["crack=high"], "crack=high", "not a number"),
        (["crack=0"], 0.0, "above 0 and at most 1"),
        (["crack=1.01"], 1.01, "above 0 and at most 1"),
        (["crack=nan"], None, "above 0 and at most 1"),
        (["dent=0.9"], "dent", "no such label"),
        (["crack=0.9", "crack=0.8"], "crack=0.8", "given twice"),
    ],
)
def test_recalls_that_say_nothing_are_refused(texts: list[str], value: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        parse_required(texts, LABELS)
    assert caught.value.field == "require_recall"
    assert value is None or caught.value.value == str(value)
    assert caught.value.fix
