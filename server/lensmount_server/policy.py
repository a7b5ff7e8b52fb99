"""What a package's own test metrics must reach before this server serves it.

A minimum is written NAME=NUMBER for all tasks, or TASK:NAME=NUMBER for one:

    macro_f1=0.9
    defect:recall.crack=0.98

The numbers are those of task.json, measured by the trainer on the sealed test set. A metric that is not there is a
refusal too: nobody knows that it was reached.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from lensmount.errors import IncompatibleError, InvalidInputError
from lensmount_adapters.manifest import Manifest

# A task's name as in task.json, then the metric's, which holds neither ":" nor "=".
_TEXT = re.compile(r"(?:(?P<task>[A-Za-z0-9][A-Za-z0-9._-]{0,63}):)?(?P<metric>[^:=\s][^:=]*)=(?P<number>[^=]+)")
FIX = "give NAME=NUMBER or TASK:NAME=NUMBER, for example macro_f1=0.9 or defect:recall.crack=0.98"


@dataclass(frozen=True)
class Minimum:
    """The least that a metric may be; for one task, or for all where `task` is ""."""

    metric: str
    value: float
    task: str = ""

    def __str__(self) -> str:
        return f"{self.metric} {self.value:g}"


@dataclass(frozen=True)
class Policy:
    """Minimum metrics; without any, every package passes."""

    minima: tuple[Minimum, ...] = ()

    def of(self, task: str) -> tuple[Minimum, ...]:
        """What holds for a task: its own minimum of a metric goes before that of all tasks."""
        chosen = {minimum.metric: minimum for minimum in self.minima if not minimum.task}
        chosen.update({minimum.metric: minimum for minimum in self.minima if minimum.task == task})
        return tuple(chosen.values())

    def check(self, manifest: Manifest) -> str:
        """What was held against what, for the list of passed checks.

        Raises IncompatibleError, which names the metric, what it is and what it must be.
        """
        minima = self.of(manifest.task)
        for minimum in minima:
            _check(manifest, minimum)
        return (
            ", ".join(
                f"{minimum.metric} {manifest.metrics[minimum.metric]:.4g} of {minimum.value:g}" for minimum in minima
            )
            or "no minimum for this task"
        )


def parse_policy(texts: Iterable[str]) -> Policy:
    """Read minima as they are written on the command line; raises InvalidInputError for one that says nothing."""
    minima: dict[tuple[str, str], Minimum] = {}
    for text in texts:
        minimum = _parse(text)
        key = minimum.task, minimum.metric
        if key in minima:
            fix = "give every metric of a task one minimum"
            raise InvalidInputError("given twice", field="minimum_metric", value=text, fix=fix)
        minima[key] = minimum
    return Policy(tuple(minima.values()))


def _parse(text: str) -> Minimum:
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise InvalidInputError("not a minimum", field="minimum_metric", value=text, fix=FIX)
    try:
        number = float(found["number"])
    except ValueError as error:
        raise InvalidInputError("not a number", field="minimum_metric", value=text, fix=FIX) from error
    if not math.isfinite(number):
        raise InvalidInputError("a finite number expected", field="minimum_metric", value=text, fix=FIX)
    return Minimum(found["metric"].strip(), number, found["task"] or "")


def _check(manifest: Manifest, minimum: Minimum) -> None:
    value = manifest.metrics.get(minimum.metric)
    field, whose = f"task.json: metrics.{minimum.metric}", minimum.task or "all tasks"
    if value is None:
        fix = "evaluate it with this metric and write it into task.json, or change the server's --minimum-metric"
        message = f"missing; the policy of this server demands at least {minimum.value:g} for {whose}"
        raise IncompatibleError(message, field=field, fix=fix)
    if not value >= minimum.value:
        fix = "train a better adapter, or change the server's --minimum-metric"
        message = f"the policy of this server demands at least {minimum.value:g} for {whose}"
        raise IncompatibleError(message, field=field, value=f"{value:.6g}", fix=fix)
