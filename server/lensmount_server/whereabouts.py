"""Where adapters are, as people are told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Place(Enum):
    """Where a registered version is kept; see Residency in adapters.proto."""

    HOT = auto()
    HOST_CACHED = auto()
    COLD = auto()
    LOADING = auto()
    QUARANTINED = auto()


@dataclass(frozen=True)
class Whereabouts:
    """Where a version is; `reason` is what is wrong with one in quarantine, and what to do, else empty."""

    place: Place
    reason: str = ""


@dataclass(frozen=True)
class ResidencyState:
    """What is in memory now (`size_bytes` and `cached_bytes` are their tensors'), and what happened since the start."""

    hot: int
    size_bytes: int
    leased: int
    pinned: int
    cached: int
    cached_bytes: int
    loads: int
    evictions: int
    quarantined: int
