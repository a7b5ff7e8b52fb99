"""What lensmount and the engine that a Triton hosts say to each other; both sides read and write it here.

A request and its reply are JSON in a tensor of bytes, with raw tensors beside them (`docs/triton.md` has the list).
Whoever asks believes nothing: a reply must be to this request, name the adapters that were asked for, in their order,
and hold as many finite numbers as that comes to. Anything else is an error, never an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from lensmount import errors
from lensmount.errors import LensmountError, ServerError, UnavailableError
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.choice import Candidate

PROTOCOL = 1
MODEL = "lensmount"
# Tensors of the model, by name.
REQUEST, PICTURES, PACKAGE = "request", "pictures", "package"
REPLY, LOGITS, HASHES = "reply", "logits", "hashes"
HASH_BYTES = 32
NO_ADAPTER = "cold"
FIX = "look at Triton's log, and export the model again with this release: lensmount export triton"

ContentHash = str


class Op(StrEnum):
    """What can be asked."""

    DESCRIBE = "describe"
    LOOK = "look"
    MOUNT = "mount"
    STATE = "state"
    UNMOUNT = "unmount"
    RUN = "run"


class Place(StrEnum):
    """Where an adapter is in the hosted engine; a settled one is mounted, and as fast as it gets."""

    ABSENT = "absent"
    MOUNTING = "mounting"
    MOUNTED = "mounted"
    SETTLED = "settled"
    FAILED = "failed"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Rows(_Message):
    """The rows of one adapter: which pictures of the request, by position, each once and ascending."""

    content_hash: ContentHash
    frames: tuple[int, ...] = Field(min_length=1)


class Request(_Message):
    """`content_hash` is what is mounted, unmounted or asked about; `rows` and `preprocessing` what is run."""

    protocol: int = PROTOCOL
    id: int
    op: Op
    content_hash: ContentHash = ""
    rows: tuple[Rows, ...] = ()
    preprocessing: Preprocessing | None = None


class Fault(_Message):
    """An error of the tree, or `cold`: adapters that are not mounted, which whoever asks can put right."""

    kind: str
    message: str = ""
    field: str = ""
    value: str = ""
    fix: str = ""
    cold: tuple[ContentHash, ...] = ()

    @classmethod
    def of(cls, error: LensmountError) -> Fault:
        """What is sent of an error."""
        own = {"message": error.message, "field": error.field, "value": error.value, "fix": error.fix}
        return cls(kind=type(error).__name__, **own)

    def error(self) -> LensmountError:
        """The error that was sent; a class that is not known here is a ServerError."""
        kind = getattr(errors, self.kind, ServerError)
        known = isinstance(kind, type) and issubclass(kind, LensmountError)
        return (kind if known else ServerError)(self.message, field=self.field, value=self.value, fix=self.fix)


class Description(_Message):
    """The engine that is hosted; `mounted` are the content hashes of its adapters."""

    backbone: str
    fingerprint: str
    segments: int
    device: str
    engine: str
    precision: str
    reason: str
    candidates: tuple[Candidate, ...] = ()
    batch_ms: dict[int, float] = Field(default_factory=dict)
    batch_sizes: tuple[int, ...] = ()
    mounted: tuple[ContentHash, ...] = ()


class Reply(_Message):
    """The answer to the request `id`; `boot` is another one each time the hosted engine starts.

    `seen` is the SHA-256 of the pictures that came, `segment_rows` what a run added to the engine's counters.
    """

    protocol: int = PROTOCOL
    id: int
    boot: str
    fault: Fault | None = None
    description: Description | None = None
    place: Place | None = None
    seen: str = ""
    segment_rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Expected:
    """Logits that a run must bring for one adapter."""

    content_hash: ContentHash
    rows: int
    labels: int


class NotMountedError(UnavailableError):
    """The hosted engine does not have an adapter that it must have: it started anew, or was told to forget it."""

    def __init__(self, url: str) -> None:
        super().__init__("its adapters are not mounted there", field="triton", value=url, fix="ask again")


def read_request(data: bytes) -> Request:
    """A request from its bytes; raises InvalidInputError, IncompatibleError for another protocol."""
    try:
        request = Request.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or REQUEST
        raise errors.InvalidInputError(first["msg"], field=field, fix="ask by lensmount serve") from error
    if request.protocol != PROTOCOL:
        message, fix = f"this model speaks protocol {PROTOCOL}", "use one release on both sides"
        raise errors.IncompatibleError(message, field="protocol", value=request.protocol, fix=fix)
    return request


def read_reply(outputs: Mapping[str, bytes], request: Request, url: str) -> Reply:
    """The reply to `request` from the outputs of the model.

    Raises ServerError for what is no reply to it, IncompatibleError for another protocol, NotMountedError, and
    the error that was sent.
    """
    try:
        reply = Reply.model_validate_json(outputs.get(REPLY, b""))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise wrong(f"not a reply: {first['msg']}", url) from error
    if reply.protocol != PROTOCOL:
        message = f"it speaks protocol {reply.protocol}, this server {PROTOCOL}"
        raise errors.IncompatibleError(message, field="triton", value=url, fix=FIX)
    if reply.id != request.id:
        raise wrong(f"the reply to request {reply.id} came for {request.id}", url)
    if reply.fault is not None and reply.fault.kind == NO_ADAPTER:
        raise NotMountedError(url)
    if reply.fault is not None:
        raise reply.fault.error()
    return reply


def read_logits(outputs: Mapping[str, bytes], expected: Sequence[Expected], url: str) -> list[Tensor]:
    """Logits (rows, labels) in float32, one tensor for each of `expected`; raises ServerError for anything else."""
    told = outputs.get(HASHES, b"")
    if told != b"".join(bytes.fromhex(each.content_hash) for each in expected):
        short = [told[at : at + HASH_BYTES].hex()[:12] for at in range(0, len(told), HASH_BYTES)]
        raise wrong(f"other adapters answered than were asked: {', '.join(short) or 'none'}", url)
    sizes = [each.rows * each.labels for each in expected]
    data = outputs.get(LOGITS, b"")
    if len(data) != 4 * sum(sizes):
        raise wrong(f"{sum(sizes)} logits expected, {len(data)} bytes came", url)
    flat = torch.frombuffer(bytearray(data), dtype=torch.float32)
    if not bool(torch.isfinite(flat).all()):
        raise wrong("it answered with NaN or infinity", url)
    parts = torch.split(flat, sizes)
    return [part.view(each.rows, each.labels) for part, each in zip(parts, expected, strict=True)]


def wrong(message: str, url: str) -> ServerError:
    """What a Triton did that it must not."""
    return ServerError(message, field="triton", value=url, fix=FIX)
