"""Labels that are probably wrong, by cleanlab (confident learning: Northcutt et al., arXiv 1911.00068).

cleanlab ranks the labels that its estimate of the noise finds doubtful. A linear classifier on frozen features errs
itself, so a doubtful label is called likely wrong only when two more witnesses agree: the classifier gives another
label 0.7 or more, and among the 10 most similar pictures most have that label and at most one the given label. On
circuit boards and household waste, 0.8 and 0.77 of which the classifier gets right, 3 % of the labels that nobody
touched are called so; of labels swapped on purpose half and two thirds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.multilabel_classification.filter import find_label_issues as find_multilabel_issues
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from lensmount_training.audit.folds import Floats, OutOfSample
from lensmount_training.data.dataset import Dataset

SURE = 0.7
NEIGHBOURS = 10
PAIRS = 5


@dataclass(frozen=True)
class LabelIssue:
    """A doubtful label: what is given, what the classifier would give, and its probabilities of both, 0..1."""

    file: str
    given: tuple[str, ...]
    suggested: tuple[str, ...]
    given_probability: float
    suggested_probability: float
    likely: bool


@dataclass(frozen=True)
class Confusion:
    """How many pictures of one label the classifier takes for another."""

    given: str
    taken_for: str
    pictures: int


@dataclass(frozen=True)
class ClassCurve:
    """Share of a class's pictures that are recognised, learned from half of the pictures and from all."""

    label: str
    half: float
    whole: float


@dataclass(frozen=True)
class Judgement:
    """What a classifier on frozen features that did not see a picture makes of it.

    `issues` come likely ones first, then by the probability of the given label, lowest first. `accuracy` is the share
    of pictures (of labels and pictures for multi-label) that it gets right, `accuracy_half` with half of the pictures.
    """

    accuracy: float
    accuracy_half: float
    grouped: bool
    issues: tuple[LabelIssue, ...]
    confusions: tuple[Confusion, ...]
    classes: tuple[ClassCurve, ...]

    @property
    def likely(self) -> tuple[LabelIssue, ...]:
        """Those that two more witnesses agree on."""
        return tuple(issue for issue in self.issues if issue.likely)


def judge(dataset: Dataset, features: Floats, targets: NDArray[np.int64], found: OutOfSample) -> Judgement:
    """Compare given labels with out-of-sample probabilities; arguments as for `out_of_sample`."""
    one = targets.ndim == 1
    issues = (
        _single(dataset, features, targets, found.whole) if one else _multi(dataset, features, targets, found.whole)
    )
    return Judgement(
        accuracy=_accuracy(targets, found.whole),
        accuracy_half=_accuracy(targets, found.half),
        grouped=found.grouped,
        issues=tuple(sorted(issues, key=lambda issue: (not issue.likely, issue.given_probability, issue.file))),
        confusions=tuple(_confusions(dataset.labels, targets, found.whole)) if one else (),
        classes=tuple(
            ClassCurve(label, _recall(targets, found.half, place), _recall(targets, found.whole, place))
            for place, label in enumerate(dataset.labels)
        ),
    )


def _single(
    dataset: Dataset, features: Floats, targets: NDArray[np.int64], probabilities: Floats
) -> Iterator[LabelIssue]:
    ranked = find_label_issues(targets, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    near = _neighbours(features)
    sizes = np.bincount(targets)
    for place in ranked.tolist():
        given, suggested = int(targets[place]), int(probabilities[place].argmax())
        if given == suggested:
            continue
        votes = targets[near[place, : max(1, min(NEIGHBOURS, int(sizes[given]) - 1))]]
        agreed = bool((votes == suggested).mean() > 0.5) and int((votes == given).sum()) <= 1
        yield LabelIssue(
            file=dataset.pictures[place].file,
            given=(dataset.labels[given],),
            suggested=(dataset.labels[suggested],),
            given_probability=round(float(probabilities[place, given]), 4),
            suggested_probability=round(float(probabilities[place, suggested]), 4),
            likely=agreed and float(probabilities[place, suggested]) >= SURE,
        )


def _multi(
    dataset: Dataset, features: Floats, targets: NDArray[np.int64], probabilities: Floats
) -> Iterator[LabelIssue]:
    """A picture's worst label decides; the suggestion is its labels with that one added or taken away."""
    own = [np.flatnonzero(row).tolist() for row in targets]
    # cleanlab's estimate of the noise leaves out what it is less sure of than usual: much, where labels are easy.
    options = {"return_indices_ranked_by": "self_confidence", "filter_by": "predicted_neq_given", "n_jobs": 1}
    ranked = find_multilabel_issues(own, probabilities, **options)
    near = _neighbours(features)
    agreement = np.where(targets == 1, probabilities, 1 - probabilities)
    for place in ranked.tolist():
        worst = int(agreement[place].argmin())
        if agreement[place, worst] >= 0.5:
            continue
        votes = targets[near[place], worst]
        agreed = int((votes == targets[place, worst]).sum()) <= 1
        suggested = sorted(set(own[place]) ^ {worst})
        yield LabelIssue(
            file=dataset.pictures[place].file,
            given=tuple(dataset.labels[label] for label in own[place]),
            suggested=tuple(dataset.labels[label] for label in suggested),
            given_probability=round(float(agreement[place, worst]), 4),
            suggested_probability=round(1 - float(agreement[place, worst]), 4),
            likely=agreed and float(agreement[place, worst]) <= 1 - SURE,
        )


def _neighbours(features: Floats) -> NDArray[np.int64]:
    """Places of the 10 most similar pictures (n, 10) by the cosine of standardised features, nearest first."""
    standard = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(features) - 1), metric="cosine").fit(standard)
    places: NDArray[np.int64] = search.kneighbors(return_distance=False)
    return places


def _accuracy(targets: NDArray[np.int64], probabilities: Floats) -> float:
    if targets.ndim == 1:
        return float((probabilities.argmax(1) == targets).mean())
    return float(((probabilities >= 0.5) == targets).mean())


def _recall(targets: NDArray[np.int64], probabilities: Floats, label: int) -> float:
    if targets.ndim == 1:
        return float((probabilities[targets == label].argmax(1) == label).mean())
    return float((probabilities[targets[:, label] == 1, label] >= 0.5).mean())


def _confusions(labels: Sequence[str], targets: NDArray[np.int64], probabilities: Floats) -> Iterator[Confusion]:
    """The commonest five."""
    answers = probabilities.argmax(1)
    pairs = Counter((int(given), int(taken)) for given, taken in zip(targets, answers, strict=True) if given != taken)
    for (given, taken), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:PAIRS]:
        yield Confusion(labels[given], labels[taken], count)
