"""Near-duplicates: pictures that are one and the same but for encoding, a small change of size, light or noise.

The rule compares what the backbone sees, as grey pictures of 112 pixels a side with equal mean:

- every pixel but 6 lies within 20 of 255 grey levels of the range that the other picture has in the 3x3 pixels
  around, both ways, and those 6 within 50: re-encoding and half a pixel of displacement stay below, another part
  before the same camera, or a defect of some pixels, does not;
- the details of both (what is between 2 and 12 pixels large) correlate with 0.9 or more;
- where there are next to no details to compare, only equal pixels count: agreement of two empty pictures proves
  nothing.

So binarised boards and smooth surfaces, which perceptual hashes throw together, stay apart. Only a picture's 8
nearest by grey thumbnail are compared, which keeps the cost linear where thousands look alike. Sets are what is
connected by pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

from lensmount_training.context import Context
from lensmount_training.data.dataset import Dataset
from lensmount_training.data.rows import Rows
from lensmount_training.memory import batches

Grey = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIDE, THUMBNAIL = 112, 16
NEIGHBOURS = 8
# Root mean square difference of thumbnails, in grey levels, beyond which no pair is looked at.
THUMBNAILS_APART = 8.0
TOLERANCE, OUTLIER_TOLERANCE, OUTLIERS = 20.0, 50.0, 6
CORRELATION, LEAST_DETAIL = 0.9, 1.5
# A set with more than this share of a class is one scene before a fixed camera; no split could keep it together.
SCENE_SHARE, SCENE_LEAST = 1 / 3, 20

_AROUND = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class Duplicates:
    """Near-duplicates by file name.

    `sets` must not be parted by a split. `scenes` are alike too, but hold more than a third of a class: whether they
    are copies or one scene taken anew can not be told from pixels. `identical` are the files of either that have the
    same pixels as an earlier one.
    """

    sets: tuple[frozenset[str], ...]
    scenes: tuple[frozenset[str], ...]
    identical: frozenset[str]

    @property
    def surplus(self) -> int:
        """How many pictures add nothing to another one of `sets`."""
        return sum(len(files) - 1 for files in self.sets)


def near_duplicate_sets(dataset: Dataset, context: Context) -> tuple[frozenset[str], ...]:
    """Sets of two and more near-duplicates that a split must keep together, by file name, largest first."""
    return find_duplicates(dataset, context).sets


def find_duplicates(dataset: Dataset, context: Context) -> Duplicates:
    """All near-duplicates of a data set: some 2 ms a picture, nothing is decoded."""
    grey = _reduced(dataset.rows, context)
    pairs = [(a, b) for a, b in _candidates(grey) if alike(grey[a], grey[b])]
    names = [picture.file for picture in dataset.pictures]
    found = sorted(_connected(pairs, len(names)), key=lambda places: (-len(places), places))
    classes = Counter(label for picture in dataset.pictures for label in picture.labels)
    scenes = [places for places in found if _is_scene(places, dataset, classes)]
    same = _identical(dataset, found)
    return Duplicates(
        sets=tuple(frozenset(names[place] for place in places) for places in found if places not in scenes),
        scenes=tuple(frozenset(names[place] for place in places) for places in scenes),
        identical=frozenset(names[place] for place in same),
    )


def alike(one: Grey, other: Grey) -> bool:
    """The rule above, for two grey pictures uint8 (112, 112)."""
    if np.array_equal(one, other):
        return True
    a, b = (picture.astype(np.float32) - np.float32(picture.mean()) for picture in (one, other))
    details = _details(a), _details(b)
    deviations = [float(detail.std()) for detail in details]
    if min(deviations) < LEAST_DETAIL:
        return False
    if float((details[0] * details[1]).mean()) < CORRELATION * deviations[0] * deviations[1]:
        return False
    excess = np.sort(np.maximum(_outside(a, b), _outside(b, a)), axis=None)
    return bool(excess[-1] <= OUTLIER_TOLERANCE and excess[-1 - OUTLIERS] <= TOLERANCE)


def _outside(reference: Floats, picture: Floats) -> Floats:
    """By how many grey levels each pixel leaves the range that `reference` has around it."""
    low, high = cv2.erode(reference, _AROUND), cv2.dilate(reference, _AROUND)
    return np.asarray(np.maximum(low - picture, picture - high), np.float32)


def _details(picture: Floats) -> Floats:
    fine = cv2.GaussianBlur(picture, (0, 0), 1.0)
    return np.asarray(fine - cv2.GaussianBlur(fine, (0, 0), 6.0), np.float32)


def _reduced(rows: Rows, context: Context) -> Grey:
    """Luma of prepared pictures, uint8 (n, 112, 112)."""
    out = np.empty((len(rows), SIDE, SIDE), np.uint8)
    bar = context.progress.bar("comparing pictures", len(rows))
    for part in batches(len(rows), 256):
        for place, row in enumerate(rows[part], part.start):
            grey = cv2.cvtColor(np.ascontiguousarray(row.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2GRAY)
            out[place] = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        bar.advance(part.stop - part.start)
    return out


def _candidates(grey: Grey) -> Iterator[tuple[int, int]]:
    """Pairs whose thumbnails are near, each once."""
    small = np.stack([cv2.resize(picture, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA) for picture in grey])
    flat = small.reshape(len(small), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS + 1, len(flat)), algorithm="brute").fit(flat)
    distances, neighbours = search.kneighbors(flat)
    near = distances <= THUMBNAILS_APART * THUMBNAIL
    pairs = {
        (min(place, int(other)), max(place, int(other)))
        for place in range(len(flat))
        for other in neighbours[place][near[place]]
        if other != place
    }
    yield from sorted(pairs)


def _connected(pairs: Sequence[tuple[int, int]], count: int) -> list[tuple[int, ...]]:
    """What is joined by pairs, in sets of two and more."""
    if not pairs:
        return []
    one, other = np.array(pairs).T
    graph = coo_array((np.ones(len(pairs)), (one, other)), shape=(count, count))
    _, numbers = connected_components(graph, directed=False)
    members: dict[int, list[int]] = {}
    for place, number in enumerate(numbers):
        members.setdefault(int(number), []).append(place)
    return [tuple(places) for places in members.values() if len(places) > 1]


def _is_scene(places: Sequence[int], dataset: Dataset, classes: Counter[int]) -> bool:
    own = Counter(label for place in places for label in dataset.pictures[place].labels)
    large = any(count > SCENE_SHARE * classes[label] for label, count in own.items() if count > SCENE_LEAST)
    return len(places) > SCENE_LEAST and large


def _identical(dataset: Dataset, found: Sequence[Sequence[int]]) -> list[int]:
    """Those whose prepared pixels are those of an earlier member of their set."""
    same: list[int] = []
    for places in found:
        seen: set[bytes] = set()
        for place in places:
            pixels = dataset.rows[slice(place, place + 1)].numpy().tobytes()
            if pixels in seen:
                same.append(place)
            seen.add(pixels)
    return same
