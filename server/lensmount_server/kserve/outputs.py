"""What a request wants to have back, and the response that holds it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from tritonclient.grpc import service_pb2

from lensmount.errors import InvalidInputError, ServerError
from lensmount_server.frames import Answer
from lensmount_server.hotset import Mounted
from lensmount_server.kserve.models import DATATYPES, LABELS, SCORES, decisions
from lensmount_server.kserve.parameters import whole
from lensmount_server.kserve.shared_memory import Memory, Place, place


@dataclass(frozen=True, slots=True)
class Requested:
    """One output: the best `classes` of the scores where that is not 0; put into `place` where there is one."""

    name: str
    classes: int = 0
    place: Place | None = None


class Content(NamedTuple):
    """What an output holds: rows of so many columns, as bytes."""

    columns: int
    data: bytes


BOTH = (Requested(SCORES), Requested(LABELS))


def requested(request: Any, memory: Memory) -> tuple[Requested, ...]:
    """The outputs that a ModelInferRequest asks for, both where it names none.

    Raises InvalidInputError, also for a place where nothing can lie, and NotFoundError for a region that is not there.
    """
    if not request.outputs:
        return BOTH
    wanted = tuple([_requested(each) for each in request.outputs[:3]])
    names = [each.name for each in wanted]
    if len(set(names)) != len(names):
        fix = "name every output once"
        raise InvalidInputError("the same output twice", field="outputs", value=", ".join(names), fix=fix)
    for each in wanted:
        if each.place is not None:
            memory.check(each.place, f"outputs.{each.name}")
    return wanted


def _requested(output: Any) -> Requested:
    name = output.name
    if name not in {SCORES, LABELS}:
        fix = f"ask for {SCORES}, for {LABELS}, or for none: then both come"
        raise InvalidInputError("no such output", field="outputs", value=name, fix=fix)
    if not output.parameters:
        return Requested(name)
    field = f"outputs.{name}"
    at, classes = place(output.parameters, field), whole(output.parameters, "classification", field)
    if classes is not None and (classes < 1 or name == LABELS or at is not None):
        fix = f"give 1 or more, on {SCORES}, without shared memory"
        raise InvalidInputError("not a classification", field=f"{field}.classification", value=classes, fix=fix)
    return Requested(name, classes or 0, at)


def response(
    request: Any, mounted: Mounted, answers: Sequence[Answer], wanted: Sequence[Requested], memory: Memory
) -> Any:
    """A ModelInferResponse, its outputs in `memory` where they are wanted there: all of them, or none is written.

    Raises ServerError for an output that does not fit into its place, as Triton does, and as `memory.check`.
    """
    contents = [_content(each, mounted, answers) for each in wanted]
    for each, content in zip(wanted, contents, strict=True):
        if each.place is not None:
            _check_fits(each.place, len(content.data), f"outputs.{each.name}", memory)
    made = service_pb2.ModelInferResponse(
        model_name=request.model_name, model_version=str(mounted.id.version), id=request.id
    )
    facts = made.parameters
    facts["version"].int64_param = mounted.id.version
    facts["content_hash"].string_param = mounted.id.content_hash
    facts["task"].string_param = mounted.id.task
    facts["queue_ms"].double_param = max(answer.queue_ms for answer in answers)
    facts["inference_ms"].double_param = max(answer.inference_ms for answer in answers)
    for each, content in zip(wanted, contents, strict=True):
        _add(made, each, (len(answers), content.columns), content.data, memory)
    return made


def _check_fits(at: Place, size_bytes: int, field: str, memory: Memory) -> None:
    if size_bytes > at.size_bytes:
        fix = f"give it {size_bytes:,} bytes or more"
        raise ServerError("the output does not fit into its place", field=field, value=at.size_bytes, fix=fix)
    memory.check(at, field, size_bytes)


def _add(made: Any, wanted: Requested, shape: tuple[int, int], data: bytes, memory: Memory) -> None:
    datatype = "BYTES" if wanted.classes else DATATYPES[wanted.name]
    output = made.outputs.add(name=wanted.name, datatype=datatype, shape=shape)
    if wanted.place is None:
        made.raw_output_contents.append(data)
        return
    at = wanted.place
    memory.write(at, data, f"outputs.{wanted.name}")
    output.parameters["shared_memory_region"].string_param = at.region
    output.parameters["shared_memory_offset"].int64_param = at.offset
    output.parameters["shared_memory_byte_size"].int64_param = len(data)
    made.raw_output_contents.append(b"")  # clients find an output's content by its place


def _content(wanted: Requested, mounted: Mounted, answers: Sequence[Answer]) -> Content:
    if wanted.name == SCORES and not wanted.classes:
        return Content(len(answers[0].scores), np.array([answer.scores for answer in answers], "<f4").tobytes())
    if wanted.name == SCORES:
        rows = [_classes(answer, wanted.classes) for answer in answers]
    else:
        columns = decisions(mounted.adapter.manifest)
        rows = [[*answer.decision, *[""] * (columns - len(answer.decision))] for answer in answers]
    return Content(len(rows[0]), b"".join(map(_string, (text for row in rows for text in row))))


def _classes(answer: Answer, count: int) -> list[str]:
    best = sorted(range(len(answer.scores)), key=lambda index: -answer.scores[index])[:count]
    return [f"{answer.scores[index]:f}:{index}:{answer.labels[index]}" for index in best]


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data
