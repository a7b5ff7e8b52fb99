"""A camera that is down for ten seconds and comes back: how soon is there a result, and does another one notice?

PYTHONPATH=tests python -m benchmarks.recovery
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field

from benchmarks.live import Live, Watcher, live, percentile
from lensmount.sources import SourceState
from rtsp_server import RtspServer

DOWN_S = 10.0
LOST, WELL = "lost", "well"


@dataclass
class Report:
    """Seconds from when the camera listens again to its first result; delays of the other camera in milliseconds.

    `frames_lost` are frames of the other camera that have no result, in all and by the drops of its account.
    """

    recovered_s: list[float] = field(default_factory=list)
    p95_before_ms: list[float] = field(default_factory=list)
    p95_down_ms: list[float] = field(default_factory=list)
    frames: int = 0
    frames_lost: int = 0
    failed: int = 0
    connections: int = 0


def measure(times: int, down_s: float = DOWN_S) -> Report:
    """Kills the camera so many times."""
    report = Report()
    with RtspServer() as camera, RtspServer() as other, live() as running, Watcher(running.client) as watcher:
        for name, each in ((LOST, camera), (WELL, other)):
            running.client.add_source(name, each.url, running.tasks)
        for name in (LOST, WELL):
            running.reach(name, SourceState.LIVE)
        for _ in range(times):
            time.sleep(down_s)
            _once(camera, watcher, down_s, report)
        _other(running, watcher, report)
    return report


def _once(camera: RtspServer, watcher: Watcher, down_s: float, report: Report) -> None:
    killed_s = time.time()
    camera.kill()
    time.sleep(down_s)
    camera.start()
    up_s = time.time()
    report.recovered_s.append(round(watcher.first(LOST, up_s).at_s - up_s, 2))
    for delays, start_s in ((report.p95_before_ms, killed_s - down_s), (report.p95_down_ms, killed_s)):
        seen = [each for each in watcher.seen if each.result.source == WELL]
        window = [each.result.timings.total_ms for each in seen if start_s <= each.at_s < start_s + down_s]
        delays.append(round(percentile(window, 95), 1))


def _other(running: Live, watcher: Watcher, report: Report) -> None:
    task = running.tasks[0]
    numbers = [e.result.frame_index for e in watcher.seen if e.result.source == WELL and e.result.task == task]
    report.frames = numbers[-1] - numbers[0] + 1
    report.frames_lost = report.frames - len(numbers)
    source = running.client.source(WELL)
    report.failed, report.connections = source.dropped.failed, source.connections


def main() -> None:
    """Print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    print(json.dumps(asdict(measure(parser.parse_args().times))))


if __name__ == "__main__":
    main()
