"""What every case gets: a backbone, where pictures come from, a place for files, and how often to run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

from lensmount_adapters.backbones import Backbone
from lensmount_training.bench.material import Material, Source


@dataclass(frozen=True, eq=False)
class Setting:
    """One run of the bench; `weights` is the backbone's file where it was given one, `scratch` an empty folder."""

    backbone: Backbone
    weights: Path | None
    source: Source
    pictures: int
    scratch: Path
    rounds: int

    @cached_property
    def material(self) -> Material:
        """The pictures that both sides learn from, written once."""
        return self.source.write(self.scratch / "pictures", self.pictures)

    @cached_property
    def cache(self) -> Path:
        """A cache that stays: what one run keeps there, later runs find."""
        return self.fresh("cache")

    def fresh(self, name: str) -> Path:
        """A new folder of its own."""
        places = (self.scratch / f"{name}-{number}" for number in count())
        folder = next(place for place in places if not place.exists())
        folder.mkdir(parents=True)
        return folder
