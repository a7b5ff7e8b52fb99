"""Label Studio's JSON export: choices label whole pictures, labelled rectangles are pictures of their own.

The format: https://labelstud.io/guide/export. Pictures are found below the folder of the export by the ends of their
names, with or without the eight digits that Label Studio puts before the name of an uploaded file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import BaseModel

from lensmount.errors import InvalidInputError
from lensmount_training.data.assembling import Index, assemble
from lensmount_training.data.crops import Box, Part, list_parts
from lensmount_training.data.documents import understood
from lensmount_training.data.files import read_file
from lensmount_training.data.finding import Finder
from lensmount_training.data.listing import Entry, Kind, Listing, Skipped

_CHOICES, _RECTANGLES = "choices", "rectanglelabels"
_UPLOADED = re.compile("^[0-9a-f]{8}-")


class _Value(BaseModel):
    choices: list[str] = []
    rectanglelabels: list[str] = []
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    rotation: float = 0


class _Result(BaseModel):
    type: str = ""
    value: _Value = _Value()
    original_width: int | None = None
    original_height: int | None = None


class _Annotation(BaseModel):
    result: list[_Result]
    was_cancelled: bool = False
    ground_truth: bool = False


class _Task(BaseModel):
    id: int | str = ""
    data: dict[str, Any]
    annotations: list[_Annotation]


def is_label_studio(document: object) -> bool:
    """Whether a JSON document is an export of Label Studio's by its keys."""
    first = document[0] if isinstance(document, list) and document else None
    return isinstance(first, dict) and {"data", "annotations"} <= first.keys()


def list_label_studio(path: Path, document: object, margin: float = 0.0) -> Listing:
    """List the pictures, or the rectangles, of the export in `path`.

    `margin` is what is added to a rectangle on each side, as a share of its width and height. Tasks without a usable
    annotation are skipped, and those about which annotators disagree. Raises InvalidInputError for what is no such
    export, and when nothing is left.
    """
    tasks = understood(list[_Task], document, "an export of Label Studio")
    judged = [(task, _judged(task)) for task in tasks]
    results = [result for _, own in judged if not isinstance(own, str) for result in own]
    form = _form(path, results)
    labels = [_labels(own, form) for _, own in judged if not isinstance(own, str)]
    kind = _kind(form, results, labels)
    found: list[Part | Entry | Skipped] = []
    finder = Finder(path.parent)
    for task, own in judged:
        file = _find(finder, task.data)
        if isinstance(file, str) or isinstance(own, str):
            found.append(Skipped(_name(task), file if isinstance(file, str) else str(own)))
        elif form == _RECTANGLES:
            found.extend(_parts(file.relative_to(path.parent).as_posix(), file, own))
        else:
            found.append(_whole(file.relative_to(path.parent).as_posix(), file, _labels(own, form), kind))
    index = Index(path, path.parent, "label-studio")
    return assemble(index, kind, {label for own in labels for label in own}, list_parts(found, margin))


def _judged(task: _Task) -> list[_Result] | str:
    """What the annotators say, or why it can not be used. What is marked as ground truth is believed alone."""
    valid = [annotation for annotation in task.annotations if not annotation.was_cancelled]
    valid = [annotation for annotation in valid if annotation.ground_truth] or valid
    if not valid:
        return "cancelled" if task.annotations else "not annotated"
    if len({_said(annotation) for annotation in valid}) > 1:
        words = sorted({", ".join(_words(annotation)) or "nothing" for annotation in valid})
        about = f": {' / '.join(words)}" if len(words) > 1 else " about the places of their rectangles"
        return f"{len(valid)} annotators disagree{about}"
    return valid[0].result


def _words(annotation: _Annotation) -> list[str]:
    return sorted(word for each in annotation.result for word in each.value.choices + each.value.rectanglelabels)


def _said(annotation: _Annotation) -> tuple[tuple[Any, ...], ...]:
    """All of an annotation that decides something, in an order of its own."""
    results = [result for result in annotation.result if result.type in (_CHOICES, _RECTANGLES)]
    values = [result.value for result in results]
    place = [(each.x, each.y, each.width, each.height, each.rotation) for each in values]
    words = [tuple(sorted(each.choices + each.rectanglelabels)) for each in values]
    return tuple(sorted(zip([each.type for each in results], words, place, strict=True)))


def _form(path: Path, results: Sequence[_Result]) -> str:
    """Rectangles where there are any, else choices."""
    types = {result.type for result in results}
    for form in (_RECTANGLES, _CHOICES):
        if form in types:
            return form
    message, value = "no choices and no labelled rectangles in the export", ", ".join(sorted(types)) or path.name
    raise InvalidInputError(message, field="data", value=value, fix="annotate with Choices or RectangleLabels")


def _labels(results: Sequence[_Result], form: str) -> tuple[str, ...]:
    words = (getattr(result.value, form) for result in results if result.type == form)
    return tuple(dict.fromkeys(word.strip() for own in words for word in own))


def _kind(form: str, results: Sequence[_Result], labels: Sequence[tuple[str, ...]]) -> Kind:
    several = [own for result in results if (own := set(getattr(result.value, form))) and len(own) > 1]
    return "multi_label" if several or (form == _CHOICES and any(len(own) > 1 for own in labels)) else "single_label"


def _whole(name: str, path: Path, labels: tuple[str, ...], kind: Kind) -> Entry | Skipped:
    if not labels and kind == "single_label":
        return Skipped(name, "annotated without a choice")
    return Entry(name, labels, lambda: read_file(path))


def _parts(name: str, path: Path, results: Sequence[_Result]) -> Iterator[Part | Skipped]:
    rectangles = [result for result in results if result.type == _RECTANGLES]
    if not rectangles:
        yield Skipped(name, "no rectangle in it")
    for result in rectangles:
        value, width, height = result.value, result.original_width, result.original_height
        if value.rotation:
            yield Skipped(name, "a turned rectangle")
        elif not width or not height:
            yield Skipped(name, "a rectangle without the size of its picture")
        elif not value.rectanglelabels:
            yield Skipped(name, "a rectangle without a label")
        else:
            across, down = width / 100, height / 100
            sides = (value.x * across, value.y * down, value.width * across, value.height * down)
            labels = tuple(dict.fromkeys(word.strip() for word in value.rectanglelabels))
            yield Part(name, path, Box(*sides, (width, height)), labels)


def _find(finder: Finder, data: Mapping[str, Any]) -> Path | str:
    """The picture of a task, which is one of the texts in its data."""
    reason = "no picture is named"
    for address in data.values():
        if isinstance(address, str):
            for name in _names(address):
                file = finder.find(name)
                if isinstance(file, Path):
                    return file
                reason = file
    return reason


def _names(address: str) -> Iterator[str]:
    """Paths that an address of Label Studio's may mean: of a local file, an upload, or a bucket."""
    try:
        url = urlsplit(address.replace("\\", "/"))
    except ValueError:  # some other text
        return
    given = parse_qs(url.query).get("d", [])
    name = given[0] if given else unquote(url.path)
    yield name
    folder, _, file = name.rpartition("/")
    if _UPLOADED.match(file):
        yield f"{folder}/{_UPLOADED.sub('', file)}"


def _name(task: _Task) -> str:
    texts = [each for each in task.data.values() if isinstance(each, str)]
    return texts[0] if texts else f"task {task.id}"
