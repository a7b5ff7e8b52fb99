"""One case: a package that is right, and one to three mutations of it, all from one seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from fuzzing import archives, documents, golden, tensors
from fuzzing.specimens import Specimen
from fuzzing.zipping import Archive, write_archive

Files = dict[str, bytes]

# In the order in which they are applied: files first, then the archive's records, then its bytes.
ON_FILES: Mapping[str, Callable[[Random, Files], None]] = {
    **documents.MUTATORS,
    **tensors.MUTATORS,
    **golden.MUTATORS,
}
ON_ARCHIVES: Mapping[str, Callable[[Random, Archive], None]] = archives.MUTATORS
ON_BYTES: Mapping[str, Callable[[Random, bytes], bytes]] = archives.BYTE_MUTATORS
NAMES = (*ON_FILES, *ON_ARCHIVES, *ON_BYTES)

# These take long, because what they make is large; each is drawn fifty times less often.
HEAVY = frozenset({"many tensors", "wide header", "bomb", "large picture", "many entries", "deep document"})
WEIGHTS = tuple(0.02 if name in HEAVY else 1.0 for name in NAMES)


@dataclass(frozen=True)
class Case:
    """An archive to be judged, and what was done to it; `is_right` where no file was changed in it."""

    seed: int
    specimen: Specimen
    mutators: tuple[str, ...]
    data: bytes
    is_right: bool


def make_case(seed: int, specimens: Sequence[Specimen]) -> Case:
    """The case of a seed; the same seed gives the same bytes."""
    random = Random(seed)
    specimen = random.choice(specimens)
    chosen = set(random.choices(NAMES, WEIGHTS, k=random.choice((1, 1, 1, 2, 2, 3))))
    files = dict(specimen.files)
    for name in [name for name in ON_FILES if name in chosen]:
        ON_FILES[name](random, files)
    archive = Archive.of(files)
    for name in [name for name in ON_ARCHIVES if name in chosen]:
        ON_ARCHIVES[name](random, archive)
    data = write_archive(archive)
    for name in [name for name in ON_BYTES if name in chosen]:
        data = ON_BYTES[name](random, data)
    mutators = tuple(name for name in NAMES if name in chosen)
    return Case(seed, specimen, mutators, data, files == specimen.files)
