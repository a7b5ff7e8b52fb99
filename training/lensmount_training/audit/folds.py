"""Probabilities for every picture from a classifier that did not learn from it, nor from its near-duplicates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from lensmount_training.progress import Progress

FOLDS = 5
# Weight decay on standardised features, as in the probe that training fits; scikit-learn's C is 1 / (decay · pictures).
DECAY = 0.03
ITERATIONS = 200

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class OutOfSample:
    """Probabilities (n, labels) by classifiers that learned from all other folds, and from half of those.

    `grouped` says whether pictures of a group were kept in one fold.
    """

    whole: Floats
    half: Floats
    grouped: bool


def out_of_sample(
    features: Floats, targets: NDArray[Any], groups: Sequence[int], seed: int, progress: Progress
) -> OutOfSample:
    """Cross-validation with 5 folds, fewer where a class has fewer groups.

    `features` (n, length); `targets` int (n,), or zeros and ones (n, labels) for multi-label; `groups` names what
    may not be parted. Where classes have too few groups to be learned without one of them, pictures are parted alone.
    """
    deviation = features.std(0)
    standard = (features - features.mean(0)) / np.where(deviation > 1e-6, deviation, 1)
    random = np.random.default_rng(seed)
    cuts, grouped = _cuts(targets, np.asarray(groups), seed)
    labels = targets.shape[1] if targets.ndim > 1 else int(targets.max()) + 1
    whole, half = np.zeros((len(targets), labels)), np.zeros((len(targets), labels))
    bar = progress.bar("judging labels", 2 * len(cuts))
    for learned, judged in cuts:
        whole[judged] = _fitted(standard[learned], targets[learned], standard[judged], labels)
        bar.advance()
        some = _half(learned, targets, random)
        half[judged] = _fitted(standard[some], targets[some], standard[judged], labels)
        bar.advance()
    return OutOfSample(whole, half, grouped)


def _cuts(targets: NDArray[Any], groups: Places, seed: int) -> tuple[list[tuple[Places, Places]], bool]:
    """Places to learn from and places to judge, and whether groups were kept together."""
    rows = np.zeros((len(targets), 1))
    parted = len(set(groups.tolist())) == len(groups)
    if targets.ndim > 1:
        folds = min(FOLDS, len(set(groups.tolist())))
        alone = KFold(FOLDS, shuffle=True, random_state=seed)
        if parted or folds < 2:
            return list(alone.split(rows)), not parted
        return list(GroupKFold(folds, shuffle=True, random_state=seed).split(rows, groups=groups)), True
    if not parted:
        folds = min(FOLDS, *(len(set(groups[targets == label].tolist())) for label in np.unique(targets)))
        if folds > 1:
            kept = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
            cuts = list(kept.split(rows, targets, groups))
            if all(len(np.unique(targets[learned])) == len(np.unique(targets)) for learned, _ in cuts):
                return cuts, True
    folds = min(FOLDS, int(np.bincount(targets).min()))
    return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, targets)), False


def _half(places: Places, targets: NDArray[Any], random: np.random.Generator) -> Places:
    """Half of the places, of each class where a picture has one."""
    if targets.ndim > 1:
        return np.sort(random.permutation(places)[: (len(places) + 1) // 2])
    kept = [random.permutation(own)[: (len(own) + 1) // 2] for own in _by_class(places, targets)]
    return np.sort(np.concatenate(kept))


def _by_class(places: Places, targets: NDArray[Any]) -> list[Places]:
    return [places[targets[places] == label] for label in np.unique(targets[places])]


def _fitted(features: Floats, targets: NDArray[Any], judged: Floats, labels: int) -> Floats:
    """Probabilities (judged, labels)."""
    if targets.ndim == 1:
        model = _classifier(features, targets)
        out = np.zeros((len(judged), labels))
        out[:, model.classes_] = model.predict_proba(judged)
        return out
    columns = [_one_label(features, column, judged) for column in targets.T.astype(np.int64)]
    return np.stack(columns, 1)


def _one_label(features: Floats, having: Places, judged: Floats) -> Floats:
    if having.min() == having.max():
        return np.full(len(judged), float(having[0]))
    probabilities: Floats = _classifier(features, having).predict_proba(judged)[:, 1]
    return probabilities


def _classifier(features: Floats, targets: NDArray[Any]) -> Any:
    model = LogisticRegression(C=1 / (DECAY * len(targets)), class_weight="balanced", max_iter=ITERATIONS)
    # So small a problem is solved fastest by one thread: ten times faster where others use the cores, too.
    with warnings.catch_warnings(), threadpool_limits(1):
        # Where it stops after 200 steps the probabilities are good enough to be doubted by.
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        return model.fit(features, targets)
