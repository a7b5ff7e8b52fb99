"""Bench results for people: tables in the terminal, and a picture."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from lensmount.errors import UnavailableError
from lensmount_server.bench import decode
from lensmount_server.bench.engine import Case, Report


def engine_table(report: Report) -> Table:
    """One row a case: what it took, its ratio with quartiles, the ideal and the goal."""
    title = (
        f"{report.engine} in {report.precision} on {report.threads} cores; "
        f"medians of {report.rounds} rounds, all sides in turns"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("case", "backbone"):
        table.add_column(column)
    for column in ("tasks", "segments", "frames", "ms", "ratio", "quartiles", "ideal", "goal"):
        table.add_column(column, justify="right")
    table.add_column("beside")
    for case in report.cases:
        table.add_row(*_cells(case))
    return table


def decode_table(report: decode.Report) -> Table:
    """One row a case: CPU milliseconds a frame of both sides, the ratio with quartiles, the goal."""
    title = f"CPU time a frame, one thread; medians of {report.rounds} rounds, all sides in turns"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("case")
    for column in ("ms", "other ms", "ratio", "quartiles", "goal"):
        table.add_column(column, justify="right")
    table.add_column("beside")
    for case in report.cases:
        goal = "" if case.goal is None else f"{'≤' if case.skips else '≥'} {case.goal:g}"
        ratio = f"{case.ratio:.2f}"
        if case.goal is not None:
            reached = case.ratio <= case.goal if case.skips else case.ratio >= case.goal
            ratio = f"[{'green' if reached else 'red'}]{ratio}[/]"
        spread = f"{case.ratio_low:.2f}–{case.ratio_high:.2f}"
        table.add_row(case.name, f"{case.ms:.2f}", f"{case.other_ms:.2f}", ratio, spread, goal, case.to)
    return table


def plot(report: Report, path: Path) -> None:
    """Draw the ratios with their quartiles, ideals and goals; the file's ending says in which format.

    Raises UnavailableError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - only for those who want a picture
    except ImportError as error:
        fix = "pip install 'lensmount[bench]'"
        raise UnavailableError("matplotlib is not installed", field="plot", value=path, fix=fix) from error
    cases = list(reversed(report.cases))
    figure = Figure(figsize=(9, 0.42 * len(cases) + 1.4), layout="constrained")
    axes = figure.subplots()
    places = range(len(cases))
    errors = [[c.ratio - c.ratio_low for c in cases], [c.ratio_high - c.ratio for c in cases]]
    axes.barh(places, [case.ratio for case in cases], xerr=errors, color=[_colour(case) for case in cases], height=0.6)
    for place, case in zip(places, cases, strict=True):
        for value, style in ((case.ideal, ":"), (case.goal, "-")):
            if value is not None:
                axes.plot([value, value], [place - 0.4, place + 0.4], color="black", linestyle=style, linewidth=1.5)
        beyond = max(value for value in (case.ratio_high, case.ideal, case.goal) if value is not None)
        axes.text(beyond + 0.08, place, f"{case.ratio:.2f}×", va="center", fontsize=8)
    axes.set_yticks(places, [_label(case) for case in cases], fontsize=8)
    axes.set_ylim(-0.6, len(cases) - 0.4)
    axes.set_xlim(0, 1.1 * max(case.ratio_high for case in cases))
    axes.set_xlabel(f"ratio (lower is better; solid: goal, dotted: ideal) — {report.engine} {report.precision}")
    figure.savefig(path, dpi=150)


def _cells(case: Case) -> list[str]:
    ratio = f"{case.ratio:.2f}"
    if case.goal is not None:
        ratio = f"[{'green' if case.ratio <= case.goal else 'red'}]{ratio}[/]"
    bounds = [f"{value:.2f}" if value is not None else "" for value in (case.ideal, case.goal)]
    numbers = [str(case.tasks), str(case.edited_segments), str(case.frames), f"{case.ms:.1f}"]
    return [case.name, case.backbone, *numbers, ratio, f"{case.ratio_low:.2f}–{case.ratio_high:.2f}", *bounds, case.to]


def _label(case: Case) -> str:
    return f"{case.name}, {case.backbone}, {case.frames} frame{'s' if case.frames > 1 else ''}"


def _colour(case: Case) -> str:
    if case.goal is None:
        return "#9aa5b1"
    return "#2f9e6e" if case.ratio <= case.goal else "#d1495b"
