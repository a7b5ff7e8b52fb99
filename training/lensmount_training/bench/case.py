"""What a case found: seconds of both sides, their ratio round by round, and the goal that was set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lensmount_adapters.timing import Rounds, Timed, in_turns, spread
from lensmount_training.progress import Progress

OURS, RIVAL = "ours", "rival"
# Of seconds.
DIGITS = 4
CASES = ("probe", "probe_again", "tail", "lora_step", "new_task", "audit")


@dataclass(frozen=True)
class Peak:
    """Peak memory beyond what was loaded, MiB of both sides; `ratio` is ours through the rival's, at most `goal`."""

    mib: float
    rival_mib: float
    ratio: float
    ratio_low: float
    ratio_high: float
    goal: float


@dataclass(frozen=True)
class Case:
    """One row. Medians, with the first and third quartile.

    `ratio` is the rival's seconds through ours, at least `goal`. Where there is no rival, `goal` is the most seconds.
    `accuracy` is on the validation pictures, to show that neither side saves on the result.
    """

    name: str
    what: str
    goal: float
    seconds: float
    seconds_low: float
    seconds_high: float
    rival_seconds: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    accuracy: float | None = None
    rival_accuracy: float | None = None
    memory: Peak | None = None

    @property
    def fast_enough(self) -> bool:
        """Whether the goal for the time is reached."""
        return self.seconds <= self.goal if self.ratio is None else self.ratio >= self.goal

    @property
    def small_enough(self) -> bool:
        """Whether the goal for the memory is reached, where there is one."""
        return self.memory is None or self.memory.ratio <= self.memory.goal

    def as_object(self) -> dict[str, Any]:
        """For JSON: every field, and whether all goals are `reached`."""
        return {**asdict(self), "reached": self.fast_enough and self.small_enough}


@dataclass(frozen=True)
class Known:
    """What is known of a case before it runs: its name, a sentence, and its goal."""

    name: str
    what: str
    goal: float

    def beside(self, done: Rounds, each: int = 1, **more: Any) -> Case:
        """The case of rounds of `OURS` and `RIVAL`, in each of which the same was done `each` times."""
        ratio, rival = done.ratio(RIVAL, OURS), done.of(RIVAL).median / 1e3 / each
        return replace(
            self.alone([ms / 1e3 / each for ms in done.ms[OURS]]),
            rival_seconds=round(rival, DIGITS),
            ratio=round(ratio.median, 2),
            ratio_low=round(ratio.low, 2),
            ratio_high=round(ratio.high, 2),
            **more,
        )

    def alone(self, seconds: Sequence[float]) -> Case:
        """The case of so many runs without a rival."""
        own = spread([*seconds])
        median, low, high = (round(value, DIGITS) for value in (own.median, own.low, own.high))
        return Case(self.name, self.what, self.goal, median, low, high)


class Judged(dict[str, float]):
    """Accuracies of sides, noted while they are timed."""

    def by(self, side: str, run: Callable[[], float]) -> Timed:
        """The same run, its accuracy noted."""

        def noted() -> None:
            self[side] = round(run(), 4)

        return noted


def run_in_turns(
    label: str, sides: Mapping[str, Timed], rounds: int, progress: Progress, *, warm_up: bool = False
) -> Rounds:
    """All rounds, with a bar."""
    bar = progress.bar(label, rounds)
    done = Rounds({})
    for done in in_turns(sides, rounds, warm_up=warm_up):  # noqa: B007 - the last one holds all
        bar.advance()
    return done
