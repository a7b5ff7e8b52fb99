"""What a request wants to have back, and the response that holds it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from lensmount.errors import InvalidInputError
from lensmount_server.frames import Answer
from lensmount_server.hotset import Mounted
from lensmount_server.kserve.models import DATATYPES, LABELS, SCORES, decisions
from lensmount_server.kserve.parameters import whole
from lensmount_server.kserve.shared_memory import Place, place

Check = Callable[[Place, str], None]
Write = Callable[[Place, bytes, str], None]


@dataclass(frozen=True, slots=True)
class Requested:
    """One output: the best `classes` of the scores where that is not 0; put into `place` where there is one."""

    name: str
    classes: int = 0
    place: Place | None = None


BOTH = (Requested(SCORES), Requested(LABELS))


def requested(request: Any, check: Check) -> tuple[Requested, ...]:
    """The outputs that a ModelInferRequest asks for, both where it names none.

    `check` raises for a place where nothing can lie. Raises InvalidInputError.
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
            check(each.place, f"outputs.{each.name}")
    return wanted


def _requested(output: Any) -> Requested:
    name = output.name
    if name not in {SCORES, LABELS}:
        fix = f"ask for {SCORES}, for {LABELS}, or for none: then both come"
        raise InvalidInputError("no such output", field="outputs", value=name, fix=fix)
    if not output.parameters:
        return Requested(name)
    field = f"outputs.{name}"
    at, classes = place(output.parameters, field), whole(output.parameters, "classification", field) or 0
    if classes < 0 or (classes and (name == LABELS or at is not None)):
        fix = f"give 1 or more, on {SCORES}, without shared memory"
        raise InvalidInputError("not a classification", field=f"{field}.classification", value=classes, fix=fix)
    return Requested(name, classes, at)


def response(
    request: Any, mounted: Mounted, answers: Sequence[Answer], wanted: Sequence[Requested], write: Write
) -> Any:
    """A ModelInferResponse; `write` puts bytes into shared memory and raises where that can not be."""
    made = service_pb2.ModelInferResponse(
        model_name=request.model_name, model_version=str(mounted.id.version), id=request.id
    )
    facts = made.parameters
    facts["content_hash"].string_param = mounted.id.content_hash
    facts["task"].string_param = mounted.id.task
    facts["queue_ms"].double_param = max(answer.queue_ms for answer in answers)
    facts["inference_ms"].double_param = max(answer.inference_ms for answer in answers)
    for each in wanted:
        _add(made, each, mounted, answers, write)
    return made


def _add(made: Any, wanted: Requested, mounted: Mounted, answers: Sequence[Answer], write: Write) -> None:
    datatype = "BYTES" if wanted.classes else DATATYPES[wanted.name]
    columns, data = _content(wanted, mounted, answers)
    output = made.outputs.add(name=wanted.name, datatype=datatype, shape=(len(answers), columns))
    if wanted.place is None:
        made.raw_output_contents.append(data)
        return
    field, at = f"outputs.{wanted.name}", wanted.place
    if len(data) > at.size_bytes:
        fix = f"give it {len(data):,} bytes or more"
        raise InvalidInputError("the output does not fit into its place", field=field, value=at.size_bytes, fix=fix)
    write(at, data, field)
    output.parameters["shared_memory_region"].string_param = at.region
    output.parameters["shared_memory_offset"].int64_param = at.offset
    output.parameters["shared_memory_byte_size"].int64_param = len(data)
    made.raw_output_contents.append(b"")  # clients find an output's content by its place


def _content(wanted: Requested, mounted: Mounted, answers: Sequence[Answer]) -> tuple[int, bytes]:
    """The number of columns, and the bytes."""
    if wanted.name == SCORES and not wanted.classes:
        return len(answers[0].scores), np.array([answer.scores for answer in answers], "<f4").tobytes()
    if wanted.name == SCORES:
        rows = [_classes(answer, wanted.classes) for answer in answers]
    else:
        columns = decisions(mounted.adapter.manifest)
        rows = [[*answer.decision, *[""] * (columns - len(answer.decision))] for answer in answers]
    return len(rows[0]), b"".join(map(_string, (text for row in rows for text in row)))


def _classes(answer: Answer, count: int) -> list[str]:
    best = sorted(range(len(answer.scores)), key=lambda index: -answer.scores[index])[:count]
    return [f"{answer.scores[index]:f}:{index}:{answer.labels[index]}" for index in best]


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data
