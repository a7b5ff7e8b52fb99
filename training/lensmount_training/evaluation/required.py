"""Recalls that are asked for: how they are written, and how many pictures must be found so that one may promise them.

With 95 % confidence the recall on other pictures of the same kind is at least what was asked if so many of the n
validation pictures are found that a recall of just that would have led to as many in one of twenty cases at most: the
one-sided bound of Clopper and Pearson (Biometrika 1934). With few pictures not even all of them are enough (0.98 takes
149); then the plain share is asked for, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, exp, isfinite, lgamma, log

import numpy as np

from lensmount.errors import InvalidInputError

DOUBT = 0.05
FIX = "give LABEL=NUMBER, for example crack=0.98"


def parse_required(texts: Iterable[str], labels: Sequence[str]) -> dict[str, float]:
    """Read recalls by label as they are written on the command line, `crack=0.98`; raises InvalidInputError."""
    found: dict[str, float] = {}
    for text in texts:
        label, equals, number = text.rpartition("=")
        if not equals:
            raise InvalidInputError("not a recall", field="require_recall", value=text, fix=FIX)
        try:
            value = float(number)
        except ValueError as error:
            raise InvalidInputError("not a number", field="require_recall", value=text, fix=FIX) from error
        if label.strip() in found:
            raise InvalidInputError("given twice", field="require_recall", value=text, fix="give every label once")
        found[label.strip()] = value
    check_required(found, labels)
    return found


def check_required(recalls: Mapping[str, float], labels: Sequence[str]) -> None:
    """Raise InvalidInputError for a label that is not there, or a recall outside (0, 1]."""
    for label, value in recalls.items():
        if label not in labels:
            shown = ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")
            fix = f"choose from {shown}"
            raise InvalidInputError("no such label", field="require_recall", value=label, fix=fix)
        if not (isfinite(value) and 0 < value <= 1):
            message = f"a recall of {label} is above 0 and at most 1"
            raise InvalidInputError(message, field="require_recall", value=value, fix=FIX)


def enough(recall: float) -> int | None:
    """The least number of pictures with which a recall can be promised, if all are found; None for 1."""
    return None if recall >= 1 else ceil(log(DOUBT) / log(recall) - 1e-9)


def needed(pictures: int, recall: float) -> tuple[int, bool]:
    """How many of a label's pictures must be found, and whether that promises the recall or is the plain share."""
    least = enough(recall)
    if least is None or pictures < least:
        return share_of(pictures, recall), False
    # P(X >= k) for X ~ Binomial(pictures, recall), summed from its small end.
    tail = np.cumsum([exp(_log_probability(k, pictures, recall)) for k in range(pictures, -1, -1)])[::-1]
    return int(np.argmax(tail <= DOUBT * (1 + 1e-9))), True


def share_of(pictures: int, recall: float) -> int:
    """How many of `pictures` the plain share is; 0.07 * 100 is a little more than 7."""
    return ceil(recall * pictures - 1e-9)


def _log_probability(k: int, n: int, p: float) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log(1 - p)
