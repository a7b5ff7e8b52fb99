"""Receives a package archive: size known before a byte is stored, hash checked at the end, resumable in between."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

from lensmount.errors import InvalidInputError, TooLargeError, UnavailableError
from lensmount.v1 import adapters_pb2
from lensmount_adapters.package import MAX_BYTES
from lensmount_server.gate import Check
from lensmount_server.uploads import Announced, Uploads, sha256_of

# The package's files at their limits, and room for the archive's own records.
MAX_ARCHIVE_BYTES = sum(MAX_BYTES.values()) + (1 << 16)
# A connection that died without a word must not hold its upload for ever: nobody else may send the same meanwhile.
PATIENCE_S = 120.0
# A call that its client has just left is still being ended when the client's next one comes.
LEAVING_S = 5.0
FIX = "send the package with `lensmount register`"

Requests = AsyncIterator[adapters_pb2.RegisterAdapterRequest]


async def receive_header(requests: Requests) -> adapters_pb2.RegisterAdapterHeader:
    """The first message, checked; raises InvalidInputError or TooLargeError."""
    request = await anext(requests, None)
    if request is None or request.WhichOneof("message") != "header":
        raise InvalidInputError("the first message must be the header", field="header", fix=FIX)
    announced(request.header.size_bytes, request.header.sha256, "header.")
    return request.header


def announced(size_bytes: int, sha256: str, prefix: str = "") -> Announced:
    """What is said of an archive; raises InvalidInputError or TooLargeError. `prefix` is where the fields are."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InvalidInputError("64 hexadecimal digits expected", field=f"{prefix}sha256", value=sha256, fix=FIX)
    if size_bytes == 0:
        raise InvalidInputError("an empty package", field=f"{prefix}size_bytes", fix=FIX)
    if size_bytes > MAX_ARCHIVE_BYTES:
        fix = f"send at most {MAX_ARCHIVE_BYTES:,} bytes"
        raise TooLargeError("the package is too large", field=f"{prefix}size_bytes", value=size_bytes, fix=fix)
    return Announced(size_bytes, sha256)


async def receive_archive(
    requests: Requests, header: adapters_pb2.RegisterAdapterHeader, uploads: Uploads, path: Path
) -> Check:
    """Bring the archive to `path`; raises InvalidInputError when the chunks are not what the header said.

    What came of one that breaks off, or comes to a standstill (UnavailableError), stays in `uploads`.
    """
    start = time.perf_counter()
    what = announced(header.size_bytes, header.sha256, "header.")
    await uploads.free(what, LEAVING_S)
    with uploads.receiving(what, header.offset) as partial:
        size = await _write(requests, partial, what.size_bytes, header.offset)
        if size != what.size_bytes:
            if size > what.size_bytes:
                uploads.discard(what)
            message, fix = f"{what.size_bytes:,} bytes were announced", "register it again: it goes on where it ended"
            raise InvalidInputError(message, field="chunk", value=f"{size:,} bytes", fix=fix)
        if await asyncio.to_thread(sha256_of, partial) != what.sha256:
            uploads.discard(what)
            fix = "send it again; it was damaged on the way"
            raise InvalidInputError("the hash does not fit", field="header.sha256", value=what.sha256, fix=fix)
        partial.rename(path)
    detail = f"SHA-256 of {size:,} bytes" + (f", {header.offset:,} of them from before" if header.offset else "")
    return Check("upload", detail, (time.perf_counter() - start) * 1e3)


async def _write(requests: Requests, path: Path, limit: int, size: int) -> int:
    with path.open("ab", buffering=0) as file:
        while (request := await _next(requests, size)) is not None:
            if request.WhichOneof("message") != "chunk":
                raise InvalidInputError("only chunks may follow the header", field="chunk", fix=FIX)
            size += len(request.chunk)
            if size > limit:
                break
            try:
                await asyncio.to_thread(file.write, request.chunk)
            except OSError as error:
                fix = "make room on the server's disk, and register it again"
                message = f"the package can not be kept: {error.strerror}"
                raise UnavailableError(message, field="chunk", value=f"{size:,} bytes", fix=fix) from error
    return size


async def _next(requests: Requests, size: int) -> adapters_pb2.RegisterAdapterRequest | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await anext(requests, None)
    except TimeoutError as error:
        message, fix = f"nothing came for {PATIENCE_S:g} s", "register it again: it goes on where it ended"
        raise UnavailableError(message, field="chunk", value=f"{size:,} bytes", fix=fix) from error
