"""What the engine in a Triton answers to each request; it knows nothing of Triton.

The hashes of an answer are those of the adapter objects that ran, so a host that mixes adapters up says so itself.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.defects import known
from lensmount_server.engine.plan import Group, Pass
from lensmount_server.engine.runtime import Engine
from lensmount_server.triton.shelf import Shelf
from lensmount_server.triton.wire import (
    NO_ADAPTER,
    ContentHash,
    Description,
    Fault,
    Op,
    Reply,
    Request,
    Rows,
    read_request,
)

T = TypeVar("T")

FIX = "ask by lensmount serve of this release"


@dataclass(frozen=True, eq=False)
class Answer:
    """JSON; for a run that went well also logits (float32, flat) and hashes (uint8, adapters x 32)."""

    reply: bytes
    logits: Tensor | None = None
    hashes: Tensor | None = None


class Host:
    """The engine with the adapters that were mounted by request; for one thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shelf = Shelf(engine.backbone, engine.executor)
        self.boot = uuid.uuid4().hex

    def answer(self, data: bytes, pictures: Tensor | None = None, package: Tensor | None = None) -> Answer:
        """The answer to a request; an error is one too. `pictures` are uint8 (frames, 3, height, width)."""
        request = Request(id=-1, op=Op.DESCRIBE)
        try:
            request = read_request(data)
            return self._answer(request, pictures, package)
        except Exception as error:  # noqa: BLE001 - the last line before the caller: whatever it is is told
            return self._reply(request, fault=Fault.of(known(error)))

    def close(self) -> None:
        """End the engine."""
        self.shelf.close()
        self.engine.close()

    def _answer(self, request: Request, pictures: Tensor | None, package: Tensor | None) -> Answer:
        match request.op:
            case Op.DESCRIBE:
                return self._reply(request, description=self._description())
            case Op.LOOK:
                seen = hashlib.sha256(_there(pictures, "pictures").contiguous().numpy().tobytes()).hexdigest()
                return self._reply(request, seen=seen)
            case Op.MOUNT:
                self.shelf.mount(request.content_hash, _there(package, "package").numpy().tobytes())
            case Op.UNMOUNT:
                self.shelf.unmount(request.content_hash)
            case Op.RUN:
                return self._run(request, _there(pictures, "pictures"))
        return self._reply(request, place=self.shelf.place(request.content_hash))

    def _run(self, request: Request, pictures: Tensor) -> Answer:
        wanted = [rows.content_hash for rows in request.rows]
        found = self.shelf.find(wanted)
        cold = tuple(content_hash for content_hash in wanted if content_hash not in found)
        if cold:
            return self._reply(request, fault=Fault(kind=NO_ADAPTER, cold=cold))
        work = _plan(request, found, pictures)
        executor = self.engine.executor
        before = list(executor.segment_rows)
        logits = executor.fetch(executor.run(work, pictures))
        added = tuple(after - own for after, own in zip(executor.segment_rows, before, strict=True))
        flat = torch.cat([each.float().reshape(-1) for each in logits])
        hashes = b"".join(bytes.fromhex(group.adapter.content_hash) for group in work.groups)
        return Answer(
            self._reply(request, segment_rows=added).reply,
            flat.contiguous(),
            torch.frombuffer(bytearray(hashes), dtype=torch.uint8).view(len(work.groups), -1),
        )

    def _reply(self, request: Request, **facts: object) -> Answer:
        reply = Reply.model_validate({"id": request.id, "boot": self.boot, **facts})
        return Answer(reply.model_dump_json().encode())

    def _description(self) -> Description:
        engine = self.engine
        return Description(
            backbone=engine.backbone.name,
            fingerprint=engine.backbone.fingerprint,
            segments=len(engine.backbone.segments),
            device=str(engine.backbone.device),
            engine=engine.executor.name,
            precision=engine.precision,
            reason=engine.choice.reason,
            candidates=engine.choice.candidates,
            batch_ms=dict(engine.batch_ms),
            batch_sizes=tuple(engine.executor.batch_sizes),
            mounted=self.shelf.mounted(),
        )


def _plan(request: Request, adapters: dict[ContentHash, Adapter], pictures: Tensor) -> Pass:
    """The pass of a request; raises InvalidInputError for one that does not fit its pictures and adapters."""
    preprocessing = _there(request.preprocessing, "preprocessing")
    shape = (pictures.shape[0], 3, preprocessing.height, preprocessing.width)
    if tuple(pictures.shape) != shape or not request.rows:
        raise InvalidInputError(f"{shape} expected", field="pictures", value=tuple(pictures.shape), fix=FIX)
    groups = tuple(_group(rows, adapters[rows.content_hash], preprocessing, len(pictures)) for rows in request.rows)
    return Pass(preprocessing, tuple(range(len(pictures))), groups)


def _group(rows: Rows, adapter: Adapter, preprocessing: Preprocessing, frames: int) -> Group:
    if adapter.manifest.preprocessing != preprocessing:
        raise InvalidInputError("not the adapter's preprocessing", field="preprocessing", fix=FIX)
    if list(rows.frames) != sorted(set(rows.frames)) or rows.frames[0] < 0 or rows.frames[-1] >= frames:
        raise InvalidInputError(f"positions below {frames}, ascending, expected", field="rows", fix=FIX)
    return Group(adapter, rows.frames)


def _there(value: T | None, field: str) -> T:
    if value is None:
        raise InvalidInputError("it is missing", field=field, fix=FIX)
    return value
