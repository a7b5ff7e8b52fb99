"""Contact sheets: pictures of every class for a person to look at, suspicious ones first with the reason beneath."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lensmount_training.audit.findings import Parts
from lensmount_training.data.dataset import Dataset

PER_CLASS = 100
# On all sheets together: some 4 KB each, and 11 at worst.
MOST = 1600
LEAST_PER_CLASS = 2


@dataclass(frozen=True)
class Shot:
    """One picture on a sheet; `reasons` is empty for those that were drawn at random."""

    file: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """Some of the `pictures` of a label."""

    label: str
    pictures: int
    shots: tuple[Shot, ...]


def draw_sheets(dataset: Dataset, parts: Parts, seed: int) -> tuple[Sheet, ...]:
    """A sheet for every label, 100 pictures each at most, fewer where there are many labels.

    Suspicious pictures take up to half of a sheet, the rest is drawn by the picture's content and `seed`.
    """
    room = max(LEAST_PER_CLASS, min(PER_CLASS, MOST // len(dataset.labels)))
    reasons = _reasons(parts)
    return tuple(_sheet(dataset, place, label, reasons, room, seed) for place, label in enumerate(dataset.labels))


def _sheet(
    dataset: Dataset, place: int, label: str, reasons: Mapping[str, tuple[str, ...]], room: int, seed: int
) -> Sheet:
    own = {picture.file: picture.digest for picture in dataset.pictures if place in picture.labels}
    drawn = sorted(own, key=lambda file: hashlib.sha256(f"{seed} {own[file]}".encode()).digest())
    suspicious = [file for file in reasons if file in own][: max(1, room // 2)]
    chosen = [*suspicious, *(file for file in drawn if file not in suspicious)][:room]
    shots = (Shot(file, reasons.get(file, ())) for file in chosen)
    return Sheet(label, len(own), tuple(sorted(shots, key=lambda shot: not shot.reasons)))


def _reasons(parts: Parts) -> dict[str, tuple[str, ...]]:
    """Why a picture is suspicious, gravest first."""
    found: dict[str, list[str]] = {}
    for file, reason in _each(parts):
        found.setdefault(file, []).append(reason)
    return {file: tuple(dict.fromkeys(own)) for file, own in found.items()}


def _each(parts: Parts) -> Iterator[tuple[str, str]]:
    for leak in parts.leakage.labels:
        yield from ((file, f"also as {' / '.join(leak.across)}") for file in leak.files)
    for leak in parts.leakage.parts:
        yield from ((file, f"{leak.kind} in {' and '.join(leak.across)}") for file in leak.files)
    for issue in parts.judgement.likely:
        yield issue.file, f"looks like {' + '.join(issue.suggested) or 'no label'}"
    for fault in parts.looks.faults:
        yield fault.file, fault.words
    for files in parts.duplicates.sets:
        yield from ((file, "near-duplicate") for file in sorted(files))
