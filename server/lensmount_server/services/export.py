"""Sends a registered package as the archive that it would be registered from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from pathlib import Path

from lensmount.archive import CHUNK_BYTES, Archive, open_archive
from lensmount.errors import IncompatibleError
from lensmount.v1 import adapters_pb2
from lensmount_adapters.package import content_hash
from lensmount_server.frames import VersionId
from lensmount_server.registry import Registry
from lensmount_server.services.convert import version_id


async def exported(registry: Registry, version: VersionId) -> AsyncGenerator[adapters_pb2.ExportAdapterResponse, None]:
    """A header, then chunks. Raises NotFoundError, UnavailableError, or IncompatibleError for a changed package."""
    with ExitStack() as stack:
        archive = await asyncio.to_thread(_open, registry, version, stack)
        header = adapters_pb2.ExportAdapterHeader(
            adapter=version_id(version), size_bytes=archive.size_bytes, sha256=archive.sha256
        )
        yield adapters_pb2.ExportAdapterResponse(header=header)
        while chunk := await asyncio.to_thread(archive.file.read, CHUNK_BYTES):
            yield adapters_pb2.ExportAdapterResponse(chunk=chunk)


def _open(registry: Registry, version: VersionId, stack: ExitStack) -> Archive:
    folder: Path = registry.folder(version)
    archive = stack.enter_context(open_archive(folder))
    if content_hash(folder) != version.content_hash:
        fix = "register the package again, and look at the disk"
        value = f"{version.task}:{version.version}"
        raise IncompatibleError("its package was changed on disk", field="adapter", value=value, fix=fix)
    return archive
