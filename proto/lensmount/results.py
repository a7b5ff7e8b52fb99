"""What comes back from a server: frozen, without protobuf.

Times are named as on the wire: `_ns` are nanoseconds since the Unix epoch (`pts_ns` since
the stream's zero), `_ms` are durations in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum


class DropPolicy(StrEnum):
    """What happens to frames that come faster than they are answered."""

    EVERY_FRAME = "every_frame"
    NEWEST = "newest"


class Residency(StrEnum):
    """Where a server keeps an adapter version; UNSPECIFIED when it does not tell, or tells a place unknown here.

    HOT can answer the next batch; HOST_CACHED and COLD (on the disk) are loaded when they are asked for;
    QUARANTINED must not answer.
    """

    UNSPECIFIED = "unspecified"
    HOT = "hot"
    HOST_CACHED = "host_cached"
    COLD = "cold"
    LOADING = "loading"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One immutable adapter version; `content_hash` (64 hexadecimal digits) is its identity."""

    task: str
    version: int
    content_hash: str


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and its probability in [0, 1]."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one result went, in milliseconds; `inference_ms` is the whole batch."""

    decode_ms: float = 0.0
    queue_ms: float = 0.0
    inference_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Drops:
    """How many frames were lost, by reason."""

    superseded: int = 0
    late: int = 0
    rate: int = 0
    decode: int = 0
    gate: int = 0
    subscriber: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All reasons together."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __add__(self, other: Drops) -> Drops:
        return Drops(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Result:
    """The answer of one task for one frame.

    `scores` holds every label in the task's own order; `labels` is the decision: the best
    label (weighed by its thresholds where the task has them, so not always that of the largest score), or for a
    multi-label task every label at or above its threshold. `dropped_before`
    counts the frames lost since the previous result of this task, those included that only
    other tasks answered. `reused`: the motion gate repeated the last answer; the account counts such a frame under
    `gate`. `jpeg` is the frame where it was asked for, else empty.
    """

    source: str
    frame_index: int
    pts_ns: int
    capture_time_ns: int
    adapter: AdapterVersion
    scores: tuple[LabelScore, ...]
    labels: tuple[str, ...]
    timings: Timings = Timings()
    dropped_before: Drops = Drops()
    reused: bool = False
    jpeg: bytes = b""

    @property
    def task(self) -> str:
        """The task that answered."""
        return self.adapter.task

    @property
    def version(self) -> int:
        """The number of the adapter version that answered."""
        return self.adapter.version

    @property
    def label(self) -> str:
        """The first label of the decision; "" when no label reached its threshold."""
        return self.labels[0] if self.labels else ""

    @property
    def score(self) -> float:
        """The score of `label`; 0.0 when there is none."""
        return next((each.score for each in self.scores if each.label == self.label), 0.0)


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """The server accepted a stream: the name it goes by and the versions that answer now."""

    name: str
    adapters: tuple[AdapterVersion, ...]


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """The account of a stream: decoded = answered + dropped (`dropped.decode` apart, those were never frames)."""

    received: int
    decoded: int
    answered: int
    dropped: Drops


@dataclass(frozen=True, slots=True)
class AliasState:
    """An alias of a version; `etag` changes whenever the alias does, and a change may name it."""

    alias: str
    etag: str
    set_time_ns: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """A registered adapter version and what its package says of itself.

    `fork` is the first segment that it edits; `metrics` were measured on the sealed test set. `residency_reason` says
    what is wrong with a version in quarantine, and what to do. `pin_reason` is None unless it is pinned;
    `registered_by` and `origin` are who said to have sent it, and from where.
    """

    task: str
    version: int
    content_hash: str
    aliases: tuple[str, ...]
    labels: tuple[str, ...]
    multi_label: bool
    strategy: str
    fork: int
    backbone: str
    backbone_fingerprint: str
    size_bytes: int
    registered_time_ns: int
    metrics: Mapping[str, float]
    residency: Residency = Residency.UNSPECIFIED
    residency_reason: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    pin_reason: str | None = None
    registered_by: str = ""
    origin: str = ""
    alias_states: tuple[AliasState, ...] = ()


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One check of the registration gate that was passed."""

    name: str
    detail: str
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Registration:
    """What became of a package; `already_registered` when the same content was there before."""

    adapter: Adapter
    checks: tuple[GateCheck, ...]
    already_registered: bool
    alias_change: AliasChange | None = None


@dataclass(frozen=True, slots=True)
class AliasChange:
    """An alias points at another version; `previous_version` is 0 when the alias is new.

    `first_answer_ms` is from the request to the first frame that the version answered; None when none was waited for,
    or came. `etag` is what the next change may name.
    """

    task: str
    alias: str
    version: int
    previous_version: int
    switch_ms: float
    etag: str = ""
    first_answer_ms: float | None = None


class AdapterEventKind(StrEnum):
    """What happened to an adapter version; UNSPECIFIED is what this release does not know."""

    UNSPECIFIED = "unspecified"
    REGISTERED = "registered"
    REGISTERED_AGAIN = "registered_again"
    REFUSED = "refused"
    ALIAS_SET = "alias_set"
    ROLLED_BACK = "rolled_back"
    ALIAS_DELETED = "alias_deleted"
    PINNED = "pinned"
    UNPINNED = "unpinned"
    TAGGED = "tagged"
    DELETED = "deleted"
    COLLECTED = "collected"
    FIRST_ANSWER = "first_answer"


@dataclass(frozen=True, slots=True)
class AdapterEvent:
    """An entry of a registry's journal, or (sequence 0) the first answer of a promoted version on the server asked.

    `adapter.version` is 0 where there is none, as for a package that was refused. `actor` is who said to have asked.
    """

    kind: AdapterEventKind
    adapter: AdapterVersion
    alias: str
    time_ns: int
    sequence: int
    previous_version: int
    actor: str
    origin: str
    detail: str


@dataclass(frozen=True, slots=True)
class Collected:
    """Versions that were removed, or would be, and the bytes that their packages take."""

    removed: tuple[AdapterVersion, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Export:
    """A version's package that was written to `path`."""

    adapter: AdapterVersion
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Backbone:
    """The frozen model that all tasks of a server share; an adapter's fork is an index into `segments`."""

    name: str
    fingerprint: str
    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """What the engine has run since it started; a row is one (frame, adapter) pair."""

    batches: int
    frames: int
    rows: int
    segment_rows: tuple[int, ...]

    @property
    def trunk_passes_per_frame(self) -> float:
        """Passes of the first segment a frame: 1.0 when every task shares it; 0.0 before the first frame."""
        return self.segment_rows[0] / self.frames if self.frames and self.segment_rows else 0.0


@dataclass(frozen=True, slots=True)
class EngineCandidate:
    """One way to compute that the server measured: the whole backbone on one row, and on eight together.

    `error` is how far pooled features are from fp32 (root mean square, relative); `too_coarse` when that is more
    than may serve.
    """

    engine: str
    precision: str
    one_row_ms: float
    eight_rows_ms: float
    error: float
    too_coarse: bool
    chosen: bool


@dataclass(frozen=True, slots=True)
class BatchCost:
    """Milliseconds of the whole backbone on so many rows."""

    rows: int
    batch_ms: float


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What computes, why, and what was measured when it was chosen; `name` is "" from a server that does not tell.

    `batch_sizes` are those it is compiled for; empty where it takes every size alike.
    """

    name: str
    batch_sizes: tuple[int, ...]
    costs: tuple[BatchCost, ...]
    candidates: tuple[EngineCandidate, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class ResidencyState:
    """How many adapter versions are where, the bytes of their tensors, and what happened since the start."""

    hot: int
    hot_bytes: int
    leased: int
    pinned: int
    host_cached: int
    host_cached_bytes: int
    loads: int
    evictions: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server runs on, how much it has run, and what it holds in memory."""

    version: str
    backbone: Backbone
    device: str
    precision: str
    engine: EngineCounters
    max_message_bytes: int
    uptime_ms: int
    engine_info: EngineInfo
    residency: ResidencyState
