"""What a server costs that has nothing to do: 32 paused sources.

PYTHONPATH=tests python -m benchmarks.idle
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.live import live
from lensmount_server.bench.cores import cpu_s, descendants
from lensmount_server.engine.settings import EngineSettings

# For the last workers to go, and whatever was begun to end.
SETTLED_S = 15.0


@dataclass(frozen=True)
class Report:
    """Percent of one core, by the server and by its children; how often it was woken, a second."""

    sources: int
    seconds: float
    server_percent: float
    children_percent: float
    wakes_per_s: float


def measure(sources: int, seconds: float) -> Report:
    """Adds the sources, paused, and looks for so long."""
    with live(EngineSettings()) as running:
        for number in range(sources):
            url = f"rtsp://127.0.0.1:9/camera-{number}"
            running.client.add_source(f"camera-{number}", url, running.tasks, paused=True)
        time.sleep(SETTLED_S)
        pid = running.server.pid
        before, started_s = _used(pid), time.monotonic()
        time.sleep(seconds)
        after, spent_s = _used(pid), time.monotonic() - started_s
    server, children, wakes = (b - a for a, b in zip(before, after, strict=True))
    percent = 100 / spent_s
    return Report(
        sources, round(spent_s, 1), round(server * percent, 2), round(children * percent, 2), round(wakes / spent_s, 1)
    )


def _used(pid: int) -> tuple[float, float, float]:
    return cpu_s(pid), sum(map(cpu_s, descendants(pid))), float(_switches(pid))


def _switches(pid: int) -> int:
    """How often its threads have waited for something, and come back."""
    lines = [line for task in Path(f"/proc/{pid}/task").iterdir() for line in (task / "status").read_text().split("\n")]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def main() -> None:
    """Print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    print(json.dumps(asdict(measure(arguments.sources, arguments.seconds))))


if __name__ == "__main__":
    main()
