"""The engine of a server whose batches Tritons compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lensmount.archive import open_archive
from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.runtime import Engine
from lensmount_server.triton.executor import TritonExecutor
from lensmount_server.triton.fleet import Fleet


def open_triton(backbone: Backbone, urls: Sequence[str], package: Callable[[str], Path]) -> Engine:
    """Connect to the Tritons at `urls` (HOST:PORT of gRPC); `package` gives the folder of a content hash. Blocks.

    Raises UnavailableError where none answers, IncompatibleError for one that hosts something else.
    """
    fleet = Fleet(backbone, urls, lambda content_hash: _archive(package(content_hash)))
    try:
        fleet.open()
        executor = TritonExecutor(fleet, len(backbone.segments))
    except BaseException:
        fleet.close()
        raise
    return Engine(backbone, executor, fleet)


def _archive(folder: Path) -> bytes:
    with open_archive(folder) as archive:
        return archive.file.read()
