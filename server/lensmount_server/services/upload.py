"""Receives a package archive: size known before a byte is stored, hash checked at the end."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

from lensmount.errors import InvalidInputError, TooLargeError
from lensmount.v1 import adapters_pb2
from lensmount_adapters.package import MAX_BYTES
from lensmount_server.gate import Check

# The package's files at their limits, and room for the archive's own records.
MAX_ARCHIVE_BYTES = sum(MAX_BYTES.values()) + (1 << 16)
FIX = "send the package with `lensmount register`"

Requests = AsyncIterator[adapters_pb2.RegisterAdapterRequest]


async def receive_header(requests: Requests) -> adapters_pb2.RegisterAdapterHeader:
    """The first message, checked; raises InvalidInputError or TooLargeError."""
    request = await anext(requests, None)
    if request is None or request.WhichOneof("message") != "header":
        raise InvalidInputError("the first message must be the header", field="header", fix=FIX)
    header = request.header
    if not re.fullmatch(r"[0-9a-f]{64}", header.sha256):
        message = "64 hexadecimal digits expected"
        raise InvalidInputError(message, field="header.sha256", value=header.sha256, fix=FIX)
    if header.size_bytes == 0:
        raise InvalidInputError("an empty package", field="header.size_bytes", fix=FIX)
    if header.size_bytes > MAX_ARCHIVE_BYTES:
        fix = f"send at most {MAX_ARCHIVE_BYTES:,} bytes"
        raise TooLargeError("the package is too large", field="header.size_bytes", value=header.size_bytes, fix=fix)
    return header


async def receive_archive(requests: Requests, header: adapters_pb2.RegisterAdapterHeader, path: Path) -> Check:
    """Write the chunks to `path`; raises InvalidInputError when they are not what the header said."""
    start = time.perf_counter()
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        async for request in requests:
            if request.WhichOneof("message") != "chunk":
                raise InvalidInputError("only chunks may follow the header", field="chunk", fix=FIX)
            size += len(request.chunk)
            if size > header.size_bytes:
                break
            digest.update(request.chunk)
            await asyncio.to_thread(file.write, request.chunk)
    if size != header.size_bytes:
        message = f"{header.size_bytes:,} bytes were announced"
        raise InvalidInputError(message, field="chunk", value=f"{size:,} bytes", fix="send the whole package again")
    if digest.hexdigest() != header.sha256:
        fix = "send it again; it was damaged on the way"
        raise InvalidInputError("the hash does not fit", field="header.sha256", value=header.sha256, fix=fix)
    return Check("upload", f"SHA-256 of {size:,} bytes", (time.perf_counter() - start) * 1e3)
