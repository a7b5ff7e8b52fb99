"""What was measured, for people: a row a case."""

from __future__ import annotations

from rich.table import Table

from lensmount_training.bench.case import Case
from lensmount_training.bench.running import Report

COLUMNS = ("s", "rival s", "ratio", "quartiles", "goal", "memory", "goal", "accuracy", "rival's")


def table_of(report: Report) -> Table:
    """Seconds of both sides, their ratio with quartiles, and goals: green where reached, red where missed."""
    title = (
        f"{report.backbone} on {report.threads} cores, {report.pictures} pictures; "
        f"medians of {report.rounds} rounds or more, both sides in turns"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("case")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for case in report.cases:
        table.add_row(case.name, *_time(case), *_memory(case), _share(case.accuracy), _share(case.rival_accuracy))
    return table


def sentences(report: Report) -> list[str]:
    """What each case is."""
    return [f"{case.name}: {case.what}" for case in report.cases]


def _time(case: Case) -> tuple[str, ...]:
    seconds = _seconds(case.seconds)
    if case.ratio is None:
        spread = f"{case.seconds_low:.1f}–{case.seconds_high:.1f} s"
        return _coloured(seconds, good=case.fast_enough), "", "", spread, f"≤ {case.goal:g} s"
    ratio = _coloured(f"{case.ratio:.2f}×", good=case.fast_enough)
    return (
        seconds,
        _seconds(case.rival_seconds),
        ratio,
        f"{case.ratio_low:.2f}–{case.ratio_high:.2f}",
        f"≥ {case.goal:g}×",
    )


def _memory(case: Case) -> tuple[str, str]:
    own = case.memory
    if own is None:
        return "", ""
    return _coloured(f"{own.ratio:.2f}×", good=case.small_enough), f"≤ {own.goal:g}×"


def _coloured(text: str, *, good: bool) -> str:
    return f"[{'green' if good else 'red'}]{text}[/]"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
