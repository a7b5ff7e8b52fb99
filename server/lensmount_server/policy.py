"""What a package's own test metrics must reach before this server serves it.

A minimum is written NAME=NUMBER for all tasks, or TASK:NAME=NUMBER for one:

    macro_f1=0.9
    defect:recall.crack=0.98

The numbers are those of task.json, measured by the trainer on the sealed test set. A metric that is not there is a
refusal too: nobody knows that it was reached. What the package demands of itself (`requirements` of task.json) is held
against the same numbers, whatever the server demands.
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
THE_SERVERS = "change the server's --minimum-metric"
OWN = "train it with another --require-recall"
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
        own = [Minimum(metric, value, manifest.task) for metric, value in manifest.requirements.items()]
        for minimum in own:
            _check(manifest, minimum, "the package itself demands", OWN)
        for minimum in minima:
            whose = f" for {minimum.task or 'all tasks'}"
            _check(manifest, minimum, "the policy of this server demands", THE_SERVERS, whose)
        told = [_told(manifest, minimum) for minimum in minima]
        told += [f"{_told(manifest, minimum)} as the package demands" for minimum in own]
        return ", ".join(told) or "no minimum for this task"


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


def _told(manifest: Manifest, minimum: Minimum) -> str:
    return f"{minimum.metric} {manifest.metrics[minimum.metric]:.4g} of {minimum.value:g}"


def _check(manifest: Manifest, minimum: Minimum, who: str, otherwise: str, whose: str = "") -> None:
    value = manifest.metrics.get(minimum.metric)
    field, demand = f"task.json: metrics.{minimum.metric}", f"{who} at least {minimum.value:g}{whose}"
    if value is None:
        fix = f"evaluate it with this metric and write it into task.json, or {otherwise}"
        raise IncompatibleError(f"missing; {demand}", field=field, fix=fix)
    if not value >= minimum.value:
        fix = f"train a better adapter, or {otherwise}"
        raise IncompatibleError(demand, field=field, value=f"{value:.6g}", fix=fix)
