"""What a case found: requests a second and latencies of both sides, their ratio round by round, and the goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any

from lensmount_adapters.timing import spread
from lensmount_server.bench.wire.load import Finding

AGAINST_TRITON = ("unary_1", "unary_16", "stream_1", "stream_16")
CASES = (*AGAINST_TRITON, "engine_16", "triton_backend", "shared_memory")
GOALS: Mapping[str, float | None] = {
    **dict.fromkeys(AGAINST_TRITON, 1.0),
    "engine_16": 0.95,
    "triton_backend": 0.95,
    "shared_memory": None,
}


@dataclass(frozen=True)
class Side:
    """Requests a second, median of the rounds; milliseconds a request, of all rounds together."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Analysed:
    """What `perf_analyzer` found of both sides, medians of its rounds, and the ratio of their requests a second."""

    ours: Side
    other: Side
    ratio: float


@dataclass(frozen=True)
class Case:
    """One row: ours, and what it is `beside`.

    `ratio` is our requests a second through the other's, the median of round-by-round ratios with their quartiles.
    `answering` is a server in Python that computes nothing, in the same rounds: what gRPC leaves room for.
    `analysed` is by another load generator, where it runs.
    """

    name: str
    beside: str
    ours: Side
    other: Side
    ratio: float
    ratio_low: float
    ratio_high: float
    goal: float | None
    tried: Mapping[str, float] = field(default_factory=dict)
    answering: Side | None = None
    analysed: Analysed | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached, beside Triton with our p99 no longer than its; None where there is none."""
        if self.goal is None:
            return None
        late = self.name in AGAINST_TRITON and self.ours.p99_ms > self.other.p99_ms
        return self.ratio >= self.goal and not late

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        made = {**asdict(self), "reached": self.reached}
        if self.name in AGAINST_TRITON:
            made = {name.replace("ratio", "ratio_to_triton", 1): value for name, value in made.items()}
        return made


def case_of(
    name: str,
    beside: str,
    ours: Sequence[Finding],
    other: Sequence[Finding],
    tried: Mapping[str, float] | None = None,
    answering: Sequence[Finding] = (),
) -> Case:
    """The case of rounds, in which one of each side ran beside one of the other's."""
    ratio = spread([rate(a) / rate(b) for a, b in zip(ours, other, strict=True)])
    middle, low, high = (round(value, 3) for value in (ratio.median, ratio.low, ratio.high))
    bare = _side(answering) if answering else None
    return Case(name, beside, _side(ours), _side(other), middle, low, high, GOALS[name], tried or {}, bare)


def rate(found: Finding) -> float:
    """Requests a second."""
    return len(found.latencies_ms) / found.seconds


def _side(found: Sequence[Finding]) -> Side:
    latencies = [each for finding in found for each in finding.latencies_ms]
    percentiles = quantiles(latencies, n=100, method="inclusive")
    rates = median(rate(each) for each in found)
    return Side(round(rates, 1), round(percentiles[49], 3), round(percentiles[98], 3))
