"""What the demo shows at the end: figures by task and version."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from lensmount import Result
from lensmount_training.demo.footage import Account
from lensmount_training.demo.swap import SwapTimes
from lensmount_training.demo.tasks import Learned
from lensmount_training.demo.truth import ClipTruth

ByVersion = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Outcome:
    """The JSON object of `lensmount demo --json`.

    `accuracy` against the clip's truth (empty without one) and `frames_per_version` go by task, then
    version; `sealed_test` is the trainer's own number; times in milliseconds, `seconds` for everything.
    """

    frames: int
    results_per_task: dict[str, int]
    lost: int
    accuracy: ByVersion
    frames_per_version: dict[str, dict[str, int]]
    sealed_test: ByVersion
    register_ms: float | None
    swap_ms: float | None
    trunk_passes_per_frame: float
    seconds: float
    video: str

    def as_json(self) -> dict[str, object]:
        """As plain data."""
        return asdict(self)


def summarise(  # noqa: PLR0913 - what the demo measured
    results: Sequence[Result],
    account: Account,
    truth: ClipTruth | None,
    learned: Sequence[Learned],
    *,
    times: SwapTimes | None,
    trunk_passes: float,
    seconds: float,
    video: str,
) -> Outcome:
    """Put the figures together."""
    per_task: dict[str, int] = defaultdict(int)
    for result in results:
        per_task[result.task] += 1
    return Outcome(
        frames=account.frames,
        results_per_task=dict(per_task),
        lost=account.lost,
        accuracy=_accuracy(results, truth) if truth else {},
        frames_per_version=_count(results),
        sealed_test={
            each.task: {str(n): run.test.accuracy for n, run in enumerate(each.versions, 1)} for each in learned
        },
        register_ms=times.register_ms if times else None,
        swap_ms=times.swap_ms if times else None,
        trunk_passes_per_frame=trunk_passes,
        seconds=round(seconds, 1),
        video=video,
    )


def table(outcome: Outcome) -> Table:
    """Who answered what, and how well."""
    shown = Table("task", "version", "frames", "right on the clip", "sealed test", title="who answered")
    for task, versions in outcome.frames_per_version.items():
        for version, frames in versions.items():
            accuracy = outcome.accuracy.get(task, {}).get(version)
            sealed = outcome.sealed_test.get(task, {}).get(version)
            shown.add_row(task, version, str(frames), _percent(accuracy), _percent(sealed))
    return shown


def _accuracy(results: Iterable[Result], truth: ClipTruth) -> ByVersion:
    right: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for result in results:
        if result.task in ("surface", "defect"):
            right[result.task, result.version].append(result.label == truth.labels(result.task)[result.frame_index])
    shaped: ByVersion = {}
    for (task, version), marks in sorted(right.items()):
        shaped.setdefault(task, {})[str(version)] = round(sum(marks) / len(marks), 4)
    return shaped


def _count(results: Iterable[Result]) -> dict[str, dict[str, int]]:
    shaped: dict[str, dict[str, int]] = {}
    for result in results:
        versions = shaped.setdefault(result.task, {})
        versions[str(result.version)] = versions.get(str(result.version), 0) + 1
    return shaped


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
