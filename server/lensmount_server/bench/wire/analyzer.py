"""`perf_analyzer`, NVIDIA's load generator in C++, beside ours: it takes less of the cores, and looks at no answer."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lensmount.errors import ServerError
from lensmount_server.bench.wire.case import Analysed, Side
from lensmount_server.bench.wire.load import INPUT, Order

LIMIT_S = 120.0
WINDOW_MS = 1500
# It repeats windows until some agree to so many percent, which they may never do on a busy host: any will do.
AGREEMENT = "999"
WAYS = {False: ("--async",), True: ("--streaming", "--async")}
FIGURES = {
    "requests_per_second": (re.compile(r"Throughput: ([0-9.]+) infer/sec"), 1.0),
    "p50_ms": (re.compile(r"p50 latency: ([0-9]+) usec"), 1e-3),
    "p99_ms": (re.compile(r"p99 latency: ([0-9]+) usec"), 1e-3),
}


@dataclass(frozen=True)
class Analyzer:
    """The program, and the folder of the libraries that it brings."""

    program: Path
    libraries: Path

    def run(self, order: Order, size: int) -> Side:
        """Random pictures of that height and width for a while. Raises ServerError where it does not work."""
        arguments = ["-i", "grpc", "-u", order.url, "-m", order.model, "--shape", f"{INPUT}:{size},{size},3"]
        arguments += ["--concurrency-range", str(order.in_flight), "--measurement-interval", str(WINDOW_MS)]
        try:
            done = self.call(*arguments, "-s", AGREEMENT, *WAYS[order.stream])
        except subprocess.TimeoutExpired as error:
            fix = f"measure without perf_analyzer: move {self.program} away"
            raise ServerError("perf_analyzer does not end", field="model", value=order.model, fix=fix) from error
        found = {name: form.search(done.stdout) for name, (form, _) in FIGURES.items()}
        if done.returncode or not all(found.values()):
            told = done.stdout[-1000:]
            raise ServerError("perf_analyzer does not measure it", field="model", value=order.model, fix=told)
        return Side(**{name: round(float(each[1]) * FIGURES[name][1], 3) for name, each in found.items() if each})

    def works(self) -> bool:
        """Whether it runs on this machine."""
        return self.program.exists() and self.call("--version").returncode == 0

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What it says to these arguments, errors too. Raises TimeoutExpired."""
        return subprocess.run(  # noqa: S603 - found beside Triton
            [self.program, *arguments],
            env={**os.environ, "LD_LIBRARY_PATH": str(self.libraries)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )


def find(home: Path) -> Analyzer | None:
    """The one that tests/install-triton puts beside a Triton in `home`; None where it does not run."""
    found = Analyzer(home / "perf" / "bin" / "perf_analyzer", home / "perf-libs")
    return found if found.works() else None


def analysed(ours: Sequence[Side], other: Sequence[Side]) -> Analysed:
    """What it found in rounds in which one of each side ran beside one of the other's."""
    ratios = [a.requests_per_second / b.requests_per_second for a, b in zip(ours, other, strict=True)]
    return Analysed(_middle(ours), _middle(other), round(median(ratios), 3))


def _middle(sides: Sequence[Side]) -> Side:
    return Side(*(round(median(each), 3) for each in zip(*(vars(side).values() for side in sides), strict=True)))
