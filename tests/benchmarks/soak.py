"""Cameras that fail in turn, for as long as you like: `make soak`.

One `lensmount serve` with eight real cameras and two tasks each; every 20 seconds another camera fails in another
way. At the end all are live, every account is exact, nothing has grown, and the cameras that were well were not
slower while others failed. Ends with 1 where one of that is not so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import count
from statistics import median

from benchmarks.failures import CONTROLS, FAILURES
from benchmarks.live import Live, Seen, Watcher, descriptors, live, percentile, rss_mib
from lensmount.sources import Source, SourceState
from lensmount_server.bench.cores import descendants
from rtsp_server import RtspServer, Shape

CAMERAS, FPS = 8, 10
SHAPE = Shape(320, 240, FPS)
ENCODER = f"tune=zerolatency speed-preset=ultrafast key-int-max={FPS}"
# A failure is over for the others when its camera is well again; this much of a period counts as with it.
FAILING_S = 10.0
# Shared machines move a p95 by themselves.
SLOWER = 2.0
SLACK_MS = 100.0
GROWTH_MIB, GROWTH_DESCRIPTORS = 48.0, 16


@dataclass(frozen=True)
class Window:
    """Times with or without a failure (Unix seconds), and the cameras that it struck."""

    start_s: float
    end_s: float
    failure: str = ""
    struck: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reading:
    """The server at one moment: resident memory, descriptors, and the sums of those of its zygote and workers.

    Pages that workers share are counted in each.
    """

    rss_mib: float
    descriptors: int
    workers_rss_mib: float
    workers_descriptors: int


@dataclass(frozen=True)
class Row:
    """How the cameras that were well did in one kind of window: delay from capture to result, in milliseconds."""

    window: str
    windows: int
    results: int
    p50_ms: float
    p95_ms: float


@dataclass
class Report:
    """What a soak found; `wrong` says what must not be."""

    seconds: float
    rows: list[Row] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    sources: list[dict[str, object]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def soak(seconds: float, period_s: float = 20.0, cameras: int = CAMERAS) -> Report:
    """Runs it for so long, and some seconds more to begin and to end."""
    with ExitStack() as stack:
        running = stack.enter_context(live())
        named = {f"camera-{n}": stack.enter_context(RtspServer(ENCODER, shape=SHAPE)) for n in range(cameras)}
        for name, camera in named.items():
            running.client.add_source(name, camera.url, running.tasks)
        for name in named:
            running.reach(name, SourceState.LIVE)
        report = Report(seconds)
        with Watcher(running.client) as watcher:
            windows = _fail_in_turn(running, named, seconds, period_s, report)
            sources = [running.reach(name, SourceState.LIVE) for name in named]
        report.rows = list(_rows(windows, watcher.seen))
        report.sources = [_settled(running, source, report.wrong) for source in sources]
        _judge(report)
        return report


def _fail_in_turn(
    running: Live, cameras: dict[str, RtspServer], seconds: float, period_s: float, report: Report
) -> list[Window]:
    """Every period one camera fails; the rest of it is quiet."""
    end_s = time.monotonic() + seconds
    turns = _turns(list(cameras))
    windows = []
    time.sleep(min(period_s - FAILING_S, seconds))
    while time.monotonic() < end_s:
        name, failure = next(turns)
        before = _connections(running)
        started_s, began_s = time.time(), time.monotonic()
        {**FAILURES, **CONTROLS}[failure](cameras[name], running.server.pid)
        time.sleep(max(began_s + FAILING_S - time.monotonic(), 0))
        over_s = time.time()
        for each in cameras:
            running.reach(each, SourceState.LIVE)
        struck = {each for each, count in _connections(running).items() if count != before[each]}
        windows.append(Window(started_s, over_s, failure, frozenset(struck or {name})))
        quiet_s = time.time()
        time.sleep(max(began_s + period_s - time.monotonic(), 0))
        windows.append(Window(quiet_s, time.time()))
        report.readings.append(_reading(running.server.pid))
    return windows


def _turns(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Cameras and failures in turn; each round begins with the next camera, so that each fails in every way."""
    failures = [*FAILURES, *CONTROLS]
    for number in count():
        yield names[(number + number // len(names)) % len(names)], failures[number % len(failures)]


def _connections(running: Live) -> dict[str, int]:
    return {source.name: source.connections for source in running.client.sources()}


def _reading(server: int) -> Reading:
    workers = descendants(server)
    return Reading(
        round(rss_mib(server), 1),
        descriptors(server),
        round(sum(map(rss_mib, workers)), 1),
        sum(map(descriptors, workers)),
    )


def _rows(windows: Sequence[Window], seen: Sequence[Seen]) -> list[Row]:
    """One row without a failure, one with any, one for each kind, one for the control."""
    kinds = {"quiet": [each for each in windows if not each.failure]}
    kinds["any failure"] = [each for each in windows if each.failure in FAILURES]
    for failure in (*FAILURES, *CONTROLS):
        kinds[failure] = [each for each in windows if each.failure == failure]
    return [_row(kind, those, seen) for kind, those in kinds.items() if those]


def _row(kind: str, windows: Sequence[Window], seen: Sequence[Seen]) -> Row:
    delays = [
        each.result.timings.total_ms
        for window in windows
        for each in seen
        if window.start_s <= each.at_s < window.end_s and each.result.source not in window.struck
    ]
    return Row(kind, len(windows), len(delays), round(percentile(delays, 50), 1), round(percentile(delays, 95), 1))


def _settled(running: Live, source: Source, wrong: list[str]) -> dict[str, object]:
    """Pauses it: nothing is under way then, and its account is exact."""
    account = running.client.pause_source(source.name)
    dropped = account.dropped
    frames = dropped.superseded + dropped.late + dropped.rate + dropped.gate + dropped.failed
    if account.decoded != account.answered + frames:
        wrong.append(f"{source.name}: {account.decoded} decoded, {account.answered} answered, {frames} dropped")
    facts = {"decoded": account.decoded, "answered": account.answered, "dropped": asdict(dropped)}
    return {"source": source.name, **facts, "connections": account.connections, "crashes": account.crashes}


def _judge(report: Report) -> None:
    quiet, failing = report.rows[0], report.rows[1]
    if failing.p95_ms > SLOWER * quiet.p95_ms + SLACK_MS:
        report.wrong.append(f"healthy cameras: p95 {failing.p95_ms} ms beside failures, {quiet.p95_ms} ms without")
    third = max(len(report.readings) // 3, 1)
    first, last = report.readings[:third], report.readings[-third:]
    grown = median(each.rss_mib for each in last) - median(each.rss_mib for each in first)
    if grown > GROWTH_MIB:
        report.wrong.append(f"the server's memory grew by {grown:.0f} MiB")
    more = median(each.descriptors for each in last) - median(each.descriptors for each in first)
    if more > GROWTH_DESCRIPTORS:
        report.wrong.append(f"the server has {more:.0f} descriptors more")


def main() -> None:
    """Print the report as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--cameras", type=int, default=CAMERAS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    report = soak(arguments.seconds, cameras=arguments.cameras)
    if arguments.json:
        print(json.dumps(asdict(report)))
    else:
        _print(report)
    sys.exit(1 if report.wrong else 0)


def _print(report: Report) -> None:
    for title, rows in (("delays of healthy cameras", report.rows), ("server", report.readings)):
        print(title)
        for row in rows:
            print("  ", *(f"{name}={value}" for name, value in asdict(row).items()))
    for source in report.sources:
        print("  ", *(f"{name}={value}" for name, value in source.items()))
    print("wrong:", *(report.wrong or ["nothing"]), sep="\n  ")


if __name__ == "__main__":
    main()
