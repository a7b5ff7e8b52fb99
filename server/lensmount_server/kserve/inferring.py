"""One ModelInferRequest from its message to its response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from lensmount.errors import LensmountError, NotFoundError
from lensmount_server.catalog import Catalog
from lensmount_server.frames import Picture, Ready, Want
from lensmount_server.hotset import Mounted
from lensmount_server.kserve import models
from lensmount_server.kserve.errors import as_triton
from lensmount_server.kserve.inputs import is_typed, pictures
from lensmount_server.kserve.neighbours import Caller
from lensmount_server.kserve.outputs import requested, response
from lensmount_server.kserve.parameters import terms
from lensmount_server.kserve.shared_memory import Memory, Regions
from lensmount_server.kserve.statistics import Statistics, Times


class Inferring:
    """Answers requests; lives on the event loop.

    All pictures of a request are answered by one version: the one that its model stood for when it came.
    """

    def __init__(self, catalog: Catalog, regions: Regions, statistics: Statistics) -> None:
        self._catalog = catalog
        self._regions = regions
        self._statistics = statistics

    async def infer(self, request: Any, caller: Caller, left_s: float | None) -> Any:
        """A ModelInferResponse; `left_s` is what is left of the call's time. Raises LensmountError."""
        came = time.perf_counter_ns()
        want = models.wanted(request.model_name, request.model_version)
        known = self._catalog.version(want)
        name, version = models.name_of(want.task, want.alias), known.version if known else want.version
        answered = False
        try:
            made = await self._infer(request, want, name, caller, left_s, came)
            answered = True
        except LensmountError as error:
            raise as_triton(error) from error
        finally:
            if not answered and (known is not None or self._is_there(want)):
                self._statistics.failed((name, version), time.perf_counter_ns() - came)
        return made

    async def _infer(self, request: Any, want: Want, name: str, caller: Caller, left_s: float | None, came: int) -> Any:
        asked = terms(request.parameters, caller.peer, left_s)
        memory = Memory(self._regions, caller.user)
        wanted = requested(request, memory)
        shown = (
            await asyncio.to_thread(pictures, request, memory.read)
            if is_typed(request)
            else pictures(request, memory.read)
        )
        ready = came

        async def look(mounted: Mounted) -> Sequence[Picture]:
            nonlocal ready
            preprocessing = mounted.adapter.manifest.preprocessing
            found = shown.quick(preprocessing)
            if not found:
                rows = await asyncio.to_thread(shown.rows, preprocessing)
                found = [Ready(preprocessing, row) for row in rows]
            ready = time.perf_counter_ns()
            return found

        mounted, answers = await self._catalog.answer_alike(want, look, asked, came / 1e9)
        answered = time.perf_counter_ns()
        made = response(request, mounted, answers, wanted, memory)
        times = Times(came, ready, answered, time.perf_counter_ns())
        self._statistics.succeeded((name, mounted.id.version), times, answers)
        return made

    def _is_there(self, want: Want) -> bool:
        """Whether what was not in memory is there by now: a version that nobody registered has no statistics."""
        with suppress(NotFoundError):
            return self._catalog.version(want) is not None
        return False
