"""What the requests of this front took, by model and version, as sums since the start.

Batches are shared with video streams and all other calls: an execution is a batch in which at least one of the model's
pictures ran, and its size is that of the whole batch.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tritonclient.grpc import service_pb2

from lensmount_server.frames import Answer, Ran

# Batches run one after the other: a request whose pictures ran before so many others has been counted.
REMEMBERED = 4096
# Versions; beyond it those go that were asked for least recently.
MAX_KEPT = 20_000

Key = tuple[str, int]

DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


@dataclass
class Duration:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Once more, or some times more that took so long together."""
        self.count += count
        self.ns += ns


@dataclass
class BatchSize:
    """Batches of one size: how long the engine took, and the requests before and after it."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass
class Sums:
    """The sums of one version."""

    inferences: int = 0
    executions: int = 0
    last_ms: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    sizes: dict[int, BatchSize] = field(default_factory=dict)
    seen: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def is_new(self, ran: Ran) -> bool:
        """Whether a batch has not been counted yet; from now on it has."""
        if ran.number in self.seen:
            return False
        self.seen[ran.number] = None
        if len(self.seen) > REMEMBERED:
            self.seen.popitem(last=False)
        return True


@dataclass(frozen=True, slots=True)
class Times:
    """When a request came, when its pictures were ready, when the answers were there and when the response was.

    `time.perf_counter_ns` each.
    """

    came: int
    ready: int
    answered: int
    done: int


class Statistics:
    """Sums by model name and version; lives on the event loop."""

    def __init__(self) -> None:
        self._sums: OrderedDict[Key, Sums] = OrderedDict()

    def succeeded(self, key: Key, times: Times, answers: Sequence[Answer]) -> None:
        """A request was answered."""
        sums = self._of(key)
        infer_ns = 0
        for answer in answers:
            if sums.is_new(answer.ran):
                batch_ns = int(answer.inference_ms * 1e6)
                sums.executions += 1
                _size(sums, answer.ran).compute_infer.add(batch_ns)
            infer_ns = max(infer_ns, int(answer.inference_ms * 1e6))
        sums.inferences += len(answers)
        sums.last_ms = time.time_ns() // 1_000_000
        sums.success.add(times.done - times.came)
        waited_ns = max(times.answered - times.ready - infer_ns, 0)
        input_ns, output_ns = times.ready - times.came, times.done - times.answered
        size = _size(sums, answers[0].ran)
        for duration, ns in (
            (sums.queue, waited_ns),
            (sums.compute_input, input_ns),
            (sums.compute_infer, infer_ns),
            (sums.compute_output, output_ns),
            (size.compute_input, input_ns),
            (size.compute_output, output_ns),
        ):
            duration.add(ns)

    def failed(self, key: Key, ns: int) -> None:
        """A request failed, or was given up."""
        self._of(key).fail.add(ns)

    def of(self, name: str = "", version: int = 0) -> Iterator[tuple[Key, Sums]]:
        """The sums of all versions, or of those of a model, or of one; sorted."""
        for key in sorted(self._sums):
            if name in {"", key[0]} and version in {0, key[1]}:
                yield key, self._sums[key]

    def _of(self, key: Key) -> Sums:
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = Sums()
        self._sums.move_to_end(key)
        if len(self._sums) > MAX_KEPT:
            self._sums.popitem(last=False)
        return sums


def _size(sums: Sums, ran: Ran) -> BatchSize:
    size = sums.sizes.get(ran.frames)
    if size is None:
        size = sums.sizes[ran.frames] = BatchSize()
    return size


def told(sums: Iterable[tuple[Key, Sums]], ready: Iterable[Key] = ()) -> Any:
    """A ModelStatisticsResponse: these sums, and nothing but zeros of what else is ready; sorted by name."""
    own = dict(sums)
    nothing = _message(Sums())
    made = service_pb2.ModelStatisticsResponse()
    for name, version in sorted(own.keys() | set(ready)):
        found = own.get((name, version))
        # Copied where there is nothing to tell: of ten thousand aliases that is ten times as quick.
        each = made.model_stats.add()
        each.CopyFrom(nothing if found is None else _message(found))
        each.name, each.version = name, str(version)
    return made


def _message(sums: Sums) -> Any:
    made = service_pb2.ModelStatistics(
        last_inference=sums.last_ms, inference_count=sums.inferences, execution_count=sums.executions
    )
    for each in DURATIONS:
        _put(getattr(made.inference_stats, each), getattr(sums, each))
    for frames, size in sorted(sums.sizes.items()):
        batch = made.batch_stats.add(batch_size=frames)
        for each in ("compute_input", "compute_infer", "compute_output"):
            _put(getattr(batch, each), getattr(size, each))
    return made


def _put(message: Any, duration: Duration) -> None:
    message.count, message.ns = duration.count, duration.ns
