"""Settings as they hold: of each the strongest source that says something, and which one that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensmount.errors import InvalidInputError
from lensmount_server.config import ServeConfig
from lensmount_server.settings import layers
from lensmount_server.settings.layers import FIELDS, Layer, Problem
from lensmount_server.settings.model import Settings


@dataclass(frozen=True)
class Found:
    """A setting as it holds: its value, and the kind of source that says so ("default": none) and where."""

    name: str
    value: Any
    source: str
    where: str


@dataclass(frozen=True)
class Reading:
    """What flags, environment and file say together, and all that is wrong with them."""

    sources: tuple[Layer, ...]
    problems: tuple[Problem, ...]

    @property
    def settings(self) -> Settings:
        """The settings; raises InvalidInputError for the first problem, which says how many more there are."""
        if self.problems:
            raise self.problems[0].error(len(self.problems) - 1)
        given: dict[str, Any] = {}
        for layer in reversed(self.sources):
            given.update(layer.values)
        return Settings(**given)

    def config(self) -> ServeConfig:
        """What the server's parts take; raises InvalidInputError as `settings`, and for what does not go together."""
        return self.settings.serve_config()

    def found(self) -> list[Found]:
        """All settings with where they come from; raises InvalidInputError as `settings`."""
        settings = self.settings
        return [self._found(name, getattr(settings, name)) for name in FIELDS]

    def _found(self, name: str, value: object) -> Found:
        layer = next((layer for layer in self.sources if name in layer.values), None)
        return Found(name, value, layer.kind, layer.where(name)) if layer else Found(name, value, "default", "")


def read(flags: Mapping[str, Any], file: Path | None) -> Reading:
    """Read all sources, and judge each of them by itself."""
    sources = [layers.flags(flags), layers.environment()]
    if file is not None:
        sources.append(layers.file(file))
    problems = tuple(problem for layer in sources for problem in layer.problems())
    return Reading(tuple(sources), problems or _together(tuple(sources)))


def _together(sources: tuple[Layer, ...]) -> tuple[Problem, ...]:
    """What is wrong with settings that are right one by one."""
    try:
        Reading(sources, ()).config()
    except InvalidInputError as error:
        return (Problem("", error.field, error.message, error.value, error.fix),)
    return ()
