"""Every picture opened once: bad ones are listed, none stops the run, and what was decoded is kept for the next.

A byte-for-byte copy of an earlier picture is skipped too, since a copy in the test set of one that was trained on
would flatter the result.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from lensmount.errors import InvalidInputError, LensmountError
from lensmount_adapters.pictures import Pixels
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_training.data.ahead import ahead
from lensmount_training.data.dataset import Dataset, Facts, Picture
from lensmount_training.data.listing import Content, Entry, Listing, Skipped
from lensmount_training.data.rows import RowStore
from lensmount_training.progress import Progress

MIN_PER_CLASS = 5
# Decoded before they are written to the cache; at 224 pixels 150 MB.
CHUNK = 1000
THREADS = 4
# The longer side is scaled down to it before sharpness is measured, so that a large photograph is not "blurred".
SHARPNESS_SIDE = 512


@dataclass(frozen=True, eq=False)
class _Read:
    entry: Entry
    content: Content


@dataclass(frozen=True, eq=False)
class _Decoded:
    digest: str
    pixels: Tensor
    facts: Facts


def read(
    listing: Listing, preprocessing: Preprocessing, cache: Path, progress: Progress, *, least: int = MIN_PER_CLASS
) -> Dataset:
    """Read every entry of a listing; what an earlier run decoded is taken from `cache`.

    Raises InvalidInputError for data of no use: no pictures, a class with fewer than `least` (what training needs), or
    a cache that can not be written.
    """
    for note in listing.notes:
        progress.say(note)
    _tell(listing.skipped, progress)
    check_counts(listing.labels, _counts(listing.entries), "pictures", least)
    found, skipped = _contents(listing, progress)
    shelf = _Shelf(cache / "pictures" / _name(preprocessing))
    skipped = sorted(skipped + _prepare(found, shelf, preprocessing, progress), key=lambda skip: skip.file)
    _tell(skipped, progress)
    gone = {skip.file for skip in skipped}
    kept = [own for own in found if own.entry.file not in gone]
    check_counts(listing.labels, _counts([own.entry for own in kept]), "readable pictures", least)
    digests = [own.content.digest for own in kept]
    return Dataset(
        folder=listing.folder,
        kind=listing.kind,
        labels=listing.labels,
        pictures=_pictures(kept, listing.labels, shelf.facts(digests)),
        rows=shelf.pixels.rows(digests),
        skipped=(*listing.skipped, *skipped),
        entries={own.entry.file: own.entry for own in kept},
    )


def check_counts(labels: Sequence[str], counts: Counter[str], what: str, least: int = MIN_PER_CLASS) -> None:
    """Raise InvalidInputError unless there are pictures, and every label has `least`."""
    if not any(counts.values()):
        fix = "look at the names and formats of the files: JPEG, PNG, WebP and BMP are read"
        raise InvalidInputError(f"no {what}", field="data", value=", ".join(labels), fix=fix)
    for label in labels:
        if counts[label] < least:
            message = f"the class has {counts[label] or 'no'} {what}, at least {least} are needed"
            fix = f"add pictures of {label}, or leave the class out"
            raise InvalidInputError(message, field="data", value=label, fix=fix)


def measure(pixels: Pixels) -> Facts:
    """Size, brightness and sharpness of a picture."""
    height, width = pixels.shape[:2]
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    ratio = SHARPNESS_SIDE / max(height, width)
    if ratio < 1:
        size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        luma = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
    return Facts(width, height, float(luma.mean()) / 255, float(cv2.Laplacian(luma, cv2.CV_64F).var()))


class _Shelf:
    """Prepared pixels and measured facts of pictures, by digest."""

    def __init__(self, folder: Path) -> None:
        self._facts = RowStore(folder / "facts")
        self.pixels = RowStore(folder / "pixels")

    def missing(self, digests: Sequence[str]) -> set[str]:
        return {*self.pixels.missing(digests), *self._facts.missing(digests)}

    def add(self, decoded: Sequence[_Decoded]) -> None:
        keys = [own.digest for own in decoded]
        with self.pixels.added(keys, decoded[0].pixels.shape, np.uint8) as room:
            for place, own in enumerate(decoded):
                room[place] = own.pixels.numpy()
        with self._facts.added(keys, (len(astuple(decoded[0].facts)),), np.float64) as room:
            room[:] = [astuple(own.facts) for own in decoded]

    def facts(self, digests: Sequence[str]) -> Iterator[Facts]:
        for width, height, brightness, sharpness in self._facts.rows(digests)[:].tolist():
            yield Facts(int(width), int(height), brightness, sharpness)


def _contents(listing: Listing, progress: Progress) -> tuple[list[_Read], list[Skipped]]:
    """Open every entry; copies of earlier ones and what can not be opened are skipped."""
    found: list[_Read] = []
    skipped: list[Skipped] = []
    first: dict[str, str] = {}
    bar = progress.bar("reading pictures", len(listing.entries))
    for entry in listing.entries:
        bar.advance()
        content = _opened(entry)
        if isinstance(content, str):
            skipped.append(Skipped(entry.file, content))
        elif content.digest in first:
            earlier = first[content.digest]
            skipped.append(Skipped(entry.file, f"the same bytes as {earlier}", earlier, entry.labels))
        else:
            first[content.digest] = entry.file
            found.append(_Read(entry, content))
    return found, skipped


def _prepare(found: Sequence[_Read], shelf: _Shelf, preprocessing: Preprocessing, progress: Progress) -> list[Skipped]:
    """Decode, measure and prepare what is not in the cache yet; what can not be decoded is skipped."""
    missing = shelf.missing([own.content.digest for own in found])
    wanted = [own for own in found if own.content.digest in missing]
    skipped: list[Skipped] = []
    bar = progress.bar("decoding pictures", len(wanted)) if wanted else None

    def decode(own: _Read) -> _Decoded | str:
        return _decode(own.content, preprocessing)

    for start in range(0, len(wanted), CHUNK):
        good: list[_Decoded] = []
        for own, result in ahead(decode, wanted[start : start + CHUNK], THREADS):
            if bar:
                bar.advance()
            if isinstance(result, str):
                skipped.append(Skipped(own.entry.file, result))
            else:
                good.append(result)
        if good:
            shelf.add(good)
    return skipped


def _decode(content: Content, preprocessing: Preprocessing) -> _Decoded | str:
    try:
        pixels = content.decode()
        return _Decoded(content.digest, preprocessing.prepare(pixels), measure(pixels))
    except LensmountError as error:
        return error.message
    except OSError as error:
        return error.strerror or str(error)


def _pictures(kept: Sequence[_Read], labels: Sequence[str], facts: Iterable[Facts]) -> tuple[Picture, ...]:
    index = {label: place for place, label in enumerate(labels)}
    return tuple(
        Picture(
            file=own.entry.file,
            labels=tuple(sorted(index[label] for label in own.entry.labels)),
            digest=own.content.digest,
            group=own.entry.group,
            source=own.entry.source,
            facts=measured,
        )
        for own, measured in zip(kept, facts, strict=True)
    )


def _counts(entries: Iterable[Entry]) -> Counter[str]:
    return Counter(label for entry in entries for label in entry.labels)


def _tell(skipped: Iterable[Skipped], progress: Progress) -> None:
    for skip in skipped:
        progress.say(f"skipped {skip.file}: {skip.reason}")


def _opened(entry: Entry) -> Content | str:
    try:
        return entry.read()
    except LensmountError as error:
        return error.message
    except OSError as error:
        return error.strerror or str(error)


def _name(preprocessing: Preprocessing) -> str:
    text = preprocessing.model_dump_json()
    return f"{preprocessing.size}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
