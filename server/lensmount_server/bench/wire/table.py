"""What was measured, for people: a row a case."""

from __future__ import annotations

from rich.table import Table

from lensmount_server.bench.wire.case import AGAINST_TRITON, Case
from lensmount_server.bench.wire.running import Report

COLUMNS = (
    "a second",
    "p50 ms",
    "p99 ms",
    "its a second",
    "p50 ms",
    "p99 ms",
    "ratio",
    "quartiles",
    "goal",
    "only answering",
)


def table_of(report: Report) -> Table:
    """Requests (pictures) a second and latencies of both sides, the ratio with quartiles, and the goal.

    `only answering`: requests a second of a Python server that computes nothing; `perf_analyzer`: the ratio by that.
    """
    title = f"{report.threads} cores; medians of {report.rounds} rounds, both sides in turns"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("case")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    table.add_column("beside")
    for case in report.cases:
        table.add_row(*_cells(case))
    return table


def _cells(case: Case) -> list[str]:
    goal = "" if case.goal is None else f"≥ {case.goal:g}"
    if case.name in AGAINST_TRITON:
        goal += ", p99 ≤"
    ratio = f"{case.ratio:.2f}"
    if case.reached is not None:
        ratio = f"[{'green' if case.reached else 'red'}]{ratio}[/]"
    figures = [
        f"{figure:.3g}" if figure < 100 else f"{figure:.0f}"
        for side in (case.ours, case.other)
        for figure in (side.requests_per_second, side.p50_ms, side.p99_ms)
    ]
    spread, bare = f"{case.ratio_low:.2f}–{case.ratio_high:.2f}", case.answering
    others = [f"{bare.requests_per_second:.0f}" if bare else "", f"{case.analysed.ratio:.2f}" if case.analysed else ""]
    return [case.name, *figures, ratio, spread, goal, *others, case.beside]
