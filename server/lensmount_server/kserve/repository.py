"""The model repository: which models there are, load (which may promote) and unload (which takes an alias away)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from lensmount.errors import InvalidInputError, NotFoundError, UnimplementedError
from lensmount_server.catalog import Catalog
from lensmount_server.frames import VersionId, Want
from lensmount_server.kserve import models
from lensmount_server.registry import By, Expected, Kind
from lensmount_server.services import names
from lensmount_server.whereabouts import Place

READY, UNAVAILABLE = "READY", "UNAVAILABLE"
# How many entries of the journal a load looks back for what an alias pointed at.
LOOKED_BACK = 100
# Versions that the index lists one by one; where there are more, those alone that matter now.
MAX_LISTED = 1000


@dataclass(frozen=True)
class Listed:
    """A model in the index; `reason` is why it is not ready."""

    name: str
    version: int
    state: str = READY
    reason: str = ""


class Repository:
    """Aliases as models that are loaded and unloaded; lives on the event loop."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._registry = catalog.registry

    async def index(self, *, ready_only: bool) -> list[Listed]:
        """All versions of the tasks with `live`, all other aliases, and the tasks without `live`; sorted.

        Of more than `MAX_LISTED` versions, those that an alias points at or that are in memory.
        """
        pointed, _ = await asyncio.to_thread(self._registry.pointed)
        versions = await asyncio.to_thread(self._registry.identities, "", MAX_LISTED + 1)
        if len(versions) > MAX_LISTED:
            versions = self._catalog.residency.hot()
        live = {version.task for alias, version, _ in pointed if alias == models.LIVE}
        named = {(models.name_of(version.task, alias), version) for alias, version, _ in pointed}
        named |= {(version.task, version) for version in versions if version.task in live}
        found = [self._listed(name, version) for name, version in named]
        if not ready_only:
            found += [
                Listed(task, version, UNAVAILABLE, f"unloaded: no alias `{models.LIVE}` points at a version")
                for task, version in await asyncio.to_thread(self._registry.without_alias, models.LIVE)
            ]
        shown = (each for each in found if not ready_only or each.state == READY)
        return sorted(shown, key=lambda each: (each.name, each.version))

    async def aliases(self) -> list[tuple[str, int]]:
        """The models that are ready, each with the version that its alias points at."""
        pointed, _ = await asyncio.to_thread(self._registry.pointed)
        return [
            (models.name_of(version.task, alias), version.version)
            for alias, version, _ in pointed
            if self._good(version)
        ]

    async def answering(self, task: str) -> list[int]:
        """The versions of a task that can answer."""
        return await asyncio.to_thread(self._answering, task)

    async def is_ready(self, name: str, number: str) -> bool:
        """Whether a model can answer: now, or after it was loaded from disk. Raises InvalidInputError for no number."""
        try:
            want = models.wanted(name, number)
            version = self._catalog.version(want)
            if version is None:
                version = await asyncio.to_thread(self._registry.identify, want.task, want.version)
        except NotFoundError:
            return False
        return self._good(version) and self._catalog.engine.answers

    async def load(self, name: str, parameters: Any, by: By) -> None:
        """Have a model ready and warm, at the version that is given, or that its alias points or last pointed at.

        Raises NotFoundError, InvalidInputError, and what `Catalog.promote` raises.
        """
        want, version = models.wanted(name), _version(parameters)
        names.checked(want.alias, "model_name")
        if not version:
            try:
                await self._catalog.ensure([want])
            except NotFoundError:
                version = await asyncio.to_thread(self._last_version, want)
            else:
                return
        await self._catalog.promote(want.task, want.alias, version, by=by)

    async def unload(self, name: str, by: By) -> None:
        """Take a model's alias away. Raises NotFoundError."""
        want = models.wanted(name)
        await self._catalog.change(self._registry.delete_alias, want.task, want.alias, Expected(), by)

    def _answering(self, task: str) -> list[int]:
        return [each.version for each in self._registry.identities(task) if self._good(each)]

    def _good(self, version: VersionId) -> bool:
        return self._catalog.residency.whereabouts(version.content_hash).place is not Place.QUARANTINED

    def _listed(self, name: str, version: VersionId) -> Listed:
        good, engine = self._good(version), self._catalog.engine
        reason = self._catalog.residency.whereabouts(version.content_hash).reason
        state = READY if good and engine.answers else UNAVAILABLE
        return Listed(name, version.version, state, engine.choice.reason if good and not engine.answers else reason)

    def _last_version(self, want: Want) -> int:
        """What an alias pointed at that is not there any more. Raises NotFoundError."""
        for entry in self._registry.events(LOOKED_BACK, None, want.task, want.alias):
            if entry.kind is Kind.ALIAS_DELETED and entry.previous:
                return entry.previous
        name = models.name_of(want.task, want.alias)
        fix = "give the parameter `version`, or register an adapter with `lensmount register FOLDER --alias live`"
        raise NotFoundError("no such model was ever loaded", field="model_name", value=name, fix=fix)


def check_repository(name: str) -> None:
    """Raise UnimplementedError for a repository by name."""
    if name:
        fix = "leave repository_name away: there is one"
        raise UnimplementedError("there are no named repositories", field="repository_name", value=name, fix=fix)


def _version(parameters: Any) -> int:
    """The version that a load asks for, 0 for none. Raises InvalidInputError or UnimplementedError."""
    strange = sorted(set(parameters) - {"version", "config"})
    if strange or len(parameters) > 1:
        fix = "give `version` or `config` alone; what an adapter is stands in its package"
        value = strange[0] if strange else "version and config"
        raise UnimplementedError("this can not be given with a load", field="parameters", value=value, fix=fix)
    if "config" in parameters:
        return _version_of_config(parameters["config"].string_param)
    if "version" not in parameters:
        return 0
    given = parameters["version"]
    kind = given.WhichOneof("parameter_choice")
    text = str(getattr(given, kind)) if kind in {"string_param", "int64_param"} else ""
    if not models.VERSION.fullmatch(text):
        fix = "give the number of an adapter version, as string_param or int64_param"
        raise InvalidInputError("not a version", field="parameters.version", value=text or kind, fix=fix)
    return int(text)


def _version_of_config(text: str) -> int:
    """The one version that a config's policy names: all that tritonclient can say of a version in a load."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    match config:
        case {"version_policy": {"specific": {"versions": [version]}}} if len(config) == 1:
            if models.VERSION.fullmatch(str(version)):
                return int(version)
    fix = """a config may name a version and nothing else: {"version_policy": {"specific": {"versions": [2]}}}"""
    raise InvalidInputError("not a version policy of one version", field="parameters.config", value=text, fix=fix)
