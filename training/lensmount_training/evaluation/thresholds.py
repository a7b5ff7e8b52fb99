"""Thresholds under which every required recall is met on the validation pictures, at the least cost to the rest.

Multi-label: each label by itself; the highest threshold that finds enough is the least cost. Single-label: the
label with the largest probability / threshold wins, so with b = -log threshold the largest log probability + b. A
label of a requirement gets the least b with which enough of its pictures win; where several have one, each takes
pictures from the others, so b is raised in turn until all hold. Every step raises b by no more than it must, so what
is reached is the least of all b that hold together, and thereby the least that is taken from the other labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lensmount_adapters.outcome import LEAST_THRESHOLD, calibrated
from lensmount_training.data.listing import Kind
from lensmount_training.evaluation.calibration import Calibration, fit_temperature
from lensmount_training.evaluation.intervals import Floats
from lensmount_training.evaluation.required import check_required, enough, needed, share_of
from lensmount_training.evaluation.scores import Bools, decisions, truths

# In log probability: how far behind the last picture that must be found the threshold lies. Engines differ by less.
SLACK = 1e-3
MOST_ROUNDS = 5_000


def calibrate(
    logits: Tensor, targets: Tensor, labels: Sequence[str], kind: Kind, required: Mapping[str, float] | None = None
) -> Calibration:
    """Temperature and thresholds from validation logits (n, labels).

    targets int64 (n,), or zeros and ones (n, labels); `required` are recalls by label. Without any, there are no
    thresholds. Raises InvalidInputError for an unknown label or a recall outside (0, 1].
    """
    required = dict(required or {})
    check_required(required, labels)
    temperature, note = fit_temperature(logits, targets, kind)
    plain = Calibration(temperature, requirements={f"recall.{label}": least for label, least in required.items()})
    notes = [note] if note else []
    if not required:
        return Calibration(temperature, notes=tuple(notes))
    chooser = _Chooser(logits, truths(targets, len(labels)), tuple(labels), kind, plain)
    thresholds, unmet, told = chooser.choose(required)
    return Calibration(temperature, thresholds, plain.requirements, unmet, (*notes, *told))


class _Chooser:
    """Chooses thresholds on one set of pictures."""

    def __init__(
        self, logits: Tensor, true: Bools, labels: tuple[str, ...], kind: Kind, calibration: Calibration
    ) -> None:
        self._logits, self._true, self._labels, self._kind = logits, true, labels, kind
        self._calibration = calibration
        self._support = {label: int(true[:, i].sum()) for i, label in enumerate(labels)}

    def choose(self, required: Mapping[str, float]) -> tuple[tuple[float, ...], tuple[str, ...], list[str]]:
        """Thresholds, labels whose requirement is not met, and sentences."""
        missing = [label for label in required if not self._support[label]]
        wanted = {label: needed(self._support[label], least) for label, least in required.items()}
        asked = {self._labels.index(label): count for label, (count, _) in wanted.items() if label not in missing}
        thresholds = self._thresholds(asked)
        notes = [f"{label}: no validation picture has it, so nothing can be said of its recall." for label in missing]
        margins = {label: margin for label, (_, margin) in wanted.items()}
        if not self._holds(thresholds, asked) and any(margins.values()):
            notes.append("With a margin for few pictures not all required recalls can be met; without it was tried.")
            margins = dict.fromkeys(margins, False)
            plain = {label: share_of(self._support[label], required[label]) for label in required}
            asked = {self._labels.index(label): plain[label] for label in required if label not in missing}
            thresholds = self._thresholds(asked)
        if not self._holds(thresholds, asked):
            return (), tuple(required), [*notes, *self._why(required, asked)]
        told = [
            self._told(label, required[label], thresholds, margin=margins[label])
            for label in required
            if label not in missing
        ]
        return thresholds, tuple(missing), [*notes, *told, *self._cost(thresholds)]

    def _thresholds(self, asked: Mapping[int, int]) -> tuple[float, ...]:
        """Thresholds with which so many pictures of each of these labels are found, if there are such."""
        if self._kind == "multi_label":
            return self._apart(asked)
        return self._together(asked)

    def _apart(self, asked: Mapping[int, int]) -> tuple[float, ...]:
        scores = calibrated(self._kind, self._calibration.temperature, self._logits).double().numpy()
        thresholds = [0.5] * len(self._labels)
        for label, count in asked.items():
            own = np.sort(scores[self._true[:, label], label])[::-1]
            thresholds[label] = min(0.5, float(own[count - 1] * np.exp(-SLACK))) if count else 0.5
        return tuple(thresholds)

    def _together(self, asked: Mapping[int, int]) -> tuple[float, ...]:
        scores = torch.log_softmax(self._logits.double() / self._calibration.temperature, 1).numpy()
        raised: Floats = np.zeros(len(self._labels))
        # Beyond it a threshold would be taken for a larger one.
        limit = -np.log(LEAST_THRESHOLD * len(self._labels))
        for _ in range(MOST_ROUNDS):
            before = raised.copy()
            for label, count in asked.items():
                raised[label] = max(raised[label], _least_raise(scores[self._true[:, label]], raised, label, count))
            if np.array_equal(before, raised) or raised.max() > limit:
                break
        # Ratios alone matter. A sum of 1 makes them the very probabilities from which on one of two labels is called.
        shares = np.exp(-np.minimum(raised, limit))
        return tuple((shares / shares.sum()).tolist()) if raised.any() else ()

    def _holds(self, thresholds: tuple[float, ...], asked: Mapping[int, int]) -> bool:
        found = self._found(thresholds)
        return all(found[label] >= count for label, count in asked.items())

    def _called(self, thresholds: tuple[float, ...]) -> Bools:
        return decisions(self._logits, self._kind, Calibration(self._calibration.temperature, thresholds))

    def _found(self, thresholds: tuple[float, ...]) -> list[int]:
        return [int(count) for count in (self._called(thresholds) & self._true).sum(0)]

    def _told(self, label: str, least: float, thresholds: tuple[float, ...], *, margin: bool) -> str:
        found, of = self._found(thresholds)[self._labels.index(label)], self._support[label]
        start = f"{label}: {found} of {of} validation pictures are found"
        if margin:
            return f"{start}, enough to expect a recall of at least {least:g} on others with 95 % confidence."
        wants = enough(least)
        why = f"{wants} pictures, all found, would be" if wants is not None else "no number of pictures is"
        return f"{start}, a share of {found / of:.3f}; {why} enough to expect {least:g} with 95 % confidence."

    def _cost(self, thresholds: tuple[float, ...]) -> list[str]:
        before, after = (float((self._called(own) == self._true).all(1).mean()) for own in ((), thresholds))
        return [f"On validation the thresholds change the accuracy from {before:.3f} to {after:.3f}."]

    def _why(self, required: Mapping[str, float], asked: Mapping[int, int]) -> list[str]:
        """What was asked, what there is without thresholds, and what each label alone costs the others."""
        plain = self._found(())
        shares = ", ".join(
            f"{label} {plain[at] / self._support[label]:.3f} of {required[label]:g}"
            for label in required
            if (at := self._labels.index(label)) in asked
        )
        notes = [f"The required recalls can not be met together on validation; without thresholds they are {shares}."]
        for label, count in asked.items():
            thresholds = self._thresholds({label: count})
            found = self._found(thresholds)
            others = ", ".join(
                f"{self._labels[other]} {found[other] / self._support[self._labels[other]]:.3f}"
                for other in asked
                if other != label
            )
            reached = f"{self._labels[label]} alone reaches {found[label] / self._support[self._labels[label]]:.3f}"
            notes.append(f"{reached}, which leaves {others}." if others else f"{reached} at most.")
        return notes


def _least_raise(scores: Floats, raised: Floats, label: int, count: int) -> float:
    """The least b of a label with which `count` of its pictures win, given those of the others.

    `scores` are log probabilities (pictures of the label, labels).
    """
    if not count:
        return 0.0
    rivals = np.delete(scores + raised, label, 1).max(1)
    lacking = np.sort(rivals - scores[:, label])
    return max(0.0, float(lacking[count - 1]) + SLACK)
