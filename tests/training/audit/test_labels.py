"""Swapped labels are found, labels that are right are left alone, and nobody judges what he learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lensmount_training.audit.folds import Floats, OutOfSample, out_of_sample
from lensmount_training.audit.labels import Judgement, judge
from lensmount_training.data.dataset import Dataset, Facts, Picture
from lensmount_training.data.listing import Kind
from lensmount_training.progress import NoProgress

LABELS = ("ok", "scratch", "dent")


def features_of(truth: Sequence[int], seed: int = 0, apart: float = 4.0) -> Floats:
    """16 features, classes `apart` from each other."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, apart / 16**0.5 * 1.5, (len(LABELS), 16))
    return np.asarray(centres[list(truth)] + random.normal(0, 0.6, (len(truth), 16)), np.float64)


def named(labels: Sequence[tuple[int, ...]], kind: Kind = "single_label") -> Dataset:
    facts = Facts(96, 96, 0.5, 100.0)
    pictures = tuple(Picture(f"{n:03}.png", own, f"{n}", "", "", facts) for n, own in enumerate(labels))
    return Dataset(Path(), kind, LABELS, pictures, torch.zeros(len(labels), 3, 4, 4), (), {})


def judged(features: Floats, labels: Sequence[int], groups: Sequence[int] | None = None) -> Judgement:
    targets = np.array(labels)
    found = out_of_sample(features, targets, groups or range(len(labels)), 0, NoProgress())
    return judge(named([(label,) for label in labels]), features, targets, found)


def test_swapped_labels_are_found_with_what_they_should_be() -> None:
    truth = [0] * 40 + [1] * 40 + [2] * 40
    given = list(truth)
    for place, wrong in ((3, 1), (50, 2), (110, 0)):
        given[place] = wrong
    found = judged(features_of(truth), given)
    assert {(issue.file, issue.given, issue.suggested) for issue in found.likely} == {
        ("003.png", ("scratch",), ("ok",)),
        ("050.png", ("dent",), ("scratch",)),
        ("110.png", ("ok",), ("dent",)),
    }
    assert all(issue.given_probability < 0.3 and issue.suggested_probability >= 0.7 for issue in found.likely)


def test_right_labels_are_left_alone() -> None:
    found = judged(features_of([0] * 40 + [1] * 40 + [2] * 40), [0] * 40 + [1] * 40 + [2] * 40)
    assert found.likely == ()
    assert found.accuracy > 0.95
    assert found.confusions == () or sum(own.pictures for own in found.confusions) < 6


def test_a_small_class_is_not_called_wrong_for_being_small() -> None:
    labels = [0] * 100 + [1] * 5 + [2] * 60
    assert judged(features_of(labels), labels).likely == ()


def test_classes_that_nobody_can_tell_apart() -> None:
    labels = [0, 1, 2] * 40
    found = judged(np.random.default_rng(0).normal(size=(120, 16)), labels)
    assert found.accuracy < 0.5
    assert len(found.likely) < 0.1 * len(labels)


def test_no_probability_comes_from_a_classifier_that_saw_the_picture() -> None:
    """A feature that names every picture would be learned by heart; unseen, it says nothing."""
    labels = np.random.default_rng(1).integers(0, 3, 90)
    found = out_of_sample(np.eye(90), labels, range(90), 0, NoProgress())
    assert (found.whole.argmax(1) == labels).mean() < 0.6


def test_nor_from_one_that_saw_its_near_duplicate() -> None:
    labels = np.repeat(np.random.default_rng(1).integers(0, 3, 45), 2)
    features = np.eye(45).repeat(2, 0)
    twins = np.arange(45).repeat(2).tolist()
    together = out_of_sample(features, labels, twins, 0, NoProgress())
    apart = out_of_sample(features, labels, range(90), 0, NoProgress())
    assert (together.whole.argmax(1) == labels).mean() < 0.6 < (apart.whole.argmax(1) == labels).mean()
    assert (together.grouped, apart.grouped) == (True, False)


def test_a_class_in_a_single_group_is_judged_all_the_same() -> None:
    labels = [0] * 20 + [1] * 20 + [2] * 20
    groups = [*range(20), *[100] * 20, *range(200, 220)]
    found = judged(features_of(labels), labels, groups)
    assert not found.grouped
    assert found.accuracy > 0.9


def test_probabilities_are_the_same_again() -> None:
    labels = np.array([0, 1, 2] * 20)
    one, other = (out_of_sample(features_of(labels.tolist()), labels, range(60), 7, NoProgress()) for _ in range(2))
    assert np.array_equal(one.whole, other.whole)
    assert np.array_equal(one.half, other.half)


def many(truth: NDArray[Any], seed: int = 0) -> Floats:
    random = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(0, 1.5, (len(LABELS), 16))
    return np.asarray(truth @ directions + random.normal(0, 0.3, (len(truth), 16)), np.float64)


@pytest.mark.parametrize("planted", [True, False])
def test_multi_label(planted: bool) -> None:
    truth = np.random.default_rng(5).integers(0, 2, (120, 3))
    given = truth.copy()
    if planted:
        given[7, 1] ^= 1
        given[60, 2] ^= 1
    features = many(truth)
    dataset = named([tuple(np.flatnonzero(row).tolist()) for row in given], "multi_label")
    found: OutOfSample = out_of_sample(features, given, range(120), 0, NoProgress())
    judgement = judge(dataset, features, given, found)
    assert {issue.file for issue in judgement.likely} == ({"007.png", "060.png"} if planted else set())
    for issue in judgement.likely:
        place = int(issue.file[:3])
        assert issue.suggested == tuple(LABELS[label] for label in np.flatnonzero(truth[place]))
    assert judgement.accuracy > 0.95
    assert judgement.confusions == ()
