"""Multi-task inference on live video: the client.

    with lensmount.Client("localhost:50051") as client:
        for result in client.stream("clip.mp4", tasks=["defect"]):
            print(result.frame_index, result.label, result.score)

`AsyncClient` is the same for asyncio. Every error is a `LensmountError`.
"""

from importlib.metadata import version

from lensmount.aio import AsyncClient
from lensmount.aio_streams import AsyncAdapterWatch, AsyncStream, AsyncWatch
from lensmount.client import Client
from lensmount.errors import (
    AlreadyExistsError,
    ConflictError,
    DeadlineError,
    IncompatibleError,
    InvalidInputError,
    LensmountError,
    MissingExtraError,
    NotFoundError,
    ServerError,
    TooLargeError,
    UnavailableError,
    UnimplementedError,
)
from lensmount.results import (
    Adapter,
    AdapterEvent,
    AdapterEventKind,
    AdapterVersion,
    AliasChange,
    AliasState,
    Backbone,
    BatchCost,
    Collected,
    DropPolicy,
    Drops,
    EngineCandidate,
    EngineCounters,
    EngineInfo,
    Export,
    GateCheck,
    LabelScore,
    Registration,
    Residency,
    ResidencyState,
    Result,
    ServerInfo,
    StreamStarted,
    StreamSummary,
    Timings,
)
from lensmount.sources import (
    DecodeEffort,
    Pace,
    Region,
    Source,
    SourceChanges,
    SourceOptions,
    SourceState,
    Transport,
)
from lensmount.streams import AdapterWatch, Stream, Watch
from lensmount.tasks import TaskRef
from lensmount.video import AccessUnit

__version__ = version("lensmount")

__all__ = [
    "AccessUnit",
    "Adapter",
    "AdapterEvent",
    "AdapterEventKind",
    "AdapterVersion",
    "AdapterWatch",
    "AliasChange",
    "AliasState",
    "AlreadyExistsError",
    "AsyncAdapterWatch",
    "AsyncClient",
    "AsyncStream",
    "AsyncWatch",
    "Backbone",
    "BatchCost",
    "Client",
    "Collected",
    "ConflictError",
    "DeadlineError",
    "DecodeEffort",
    "DropPolicy",
    "Drops",
    "EngineCandidate",
    "EngineCounters",
    "EngineInfo",
    "Export",
    "GateCheck",
    "IncompatibleError",
    "InvalidInputError",
    "LabelScore",
    "LensmountError",
    "MissingExtraError",
    "NotFoundError",
    "Pace",
    "Region",
    "Registration",
    "Residency",
    "ResidencyState",
    "Result",
    "ServerError",
    "ServerInfo",
    "Source",
    "SourceChanges",
    "SourceOptions",
    "SourceState",
    "Stream",
    "StreamStarted",
    "StreamSummary",
    "TaskRef",
    "Timings",
    "TooLargeError",
    "Transport",
    "UnavailableError",
    "UnimplementedError",
    "Watch",
    "__version__",
]
