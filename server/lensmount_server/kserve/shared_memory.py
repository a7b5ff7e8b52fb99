"""System shared memory: regions of POSIX shared memory objects that clients on this machine registered by name.

A name belongs to the user who registered it, and an object must be that user's own: whoever connects is known by the
kernel's word (`neighbours`). So nobody reads, sees or unregisters what another user registered, and nobody has the
server read an object for him that is not his. All clients of one user share one set of names, as all clients of
Triton do.

Nothing is mapped: bytes are read and written by system calls, so an object that was cut short is an error and no
signal.
"""

from __future__ import annotations

import os
import re
import resource
import stat
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lensmount.errors import AlreadyExistsError, InvalidInputError, NotFoundError, TooLargeError
from lensmount_server.kserve.parameters import Parameters, text, whole
from lensmount_server.services.errors import MAX_MESSAGE_BYTES

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
KEY = re.compile(r"/?([^/\0]{1,255})")
MAX_REGIONS = 1024
MAX_NAME = 256


class _Opened:
    """An open object; closed when the last who uses it has let go."""

    def __init__(self, number: int) -> None:
        self.number = number
        weakref.finalize(self, os.close, number)


@dataclass(frozen=True)
class Region:
    """`size_bytes` from `offset` on of the object `key`, under `name`."""

    name: str
    key: str
    offset: int
    size_bytes: int
    opened: _Opened


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: `size_bytes` from `offset` on of a region."""

    region: str
    offset: int
    size_bytes: int


def place(parameters: Parameters, field: str) -> Place | None:
    """Where an input or output lies, None for in the message. Raises InvalidInputError."""
    if not parameters:
        return None
    region = text(parameters, "shared_memory_region", field)
    if region is None:
        _check_none_without_region(parameters, field)
        return None
    size, offset = (whole(parameters, f"shared_memory_{name}", field) for name in ("byte_size", "offset"))
    if size is None or size < 0 or (offset or 0) < 0:
        fix = "give shared_memory_byte_size, and an offset of 0 or more"
        value = f"byte_size {size}, offset {offset}"
        raise InvalidInputError("not a part of a region", field=field, value=value, fix=fix)
    return Place(region, offset or 0, size)


def _check_none_without_region(parameters: Parameters, field: str) -> None:
    for name in ("shared_memory_byte_size", "shared_memory_offset"):
        if name in parameters:
            fix = "give shared_memory_region too, or leave it away"
            raise InvalidInputError("a part of no region", field=f"{field}.{name}", fix=fix)


class Regions:
    """What users registered; lives on one event loop. Reading takes no lock and may happen in threads."""

    def __init__(self) -> None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.limit = MAX_REGIONS if files == resource.RLIM_INFINITY else min(MAX_REGIONS, files // 4)
        self._regions: dict[tuple[int, str], Region] = {}

    def register(self, uid: int, name: str, key: str, offset: int, size_bytes: int) -> None:
        """Open a part of an object.

        Raises AlreadyExistsError for a name that is taken, TooLargeError beyond the limit, and InvalidInputError for an
        object that is not there, not the user's own, or too small.
        """
        if not name or len(name) > MAX_NAME:
            fix = f"use 1 to {MAX_NAME} characters"
            raise InvalidInputError("not a name for a region", field="name", value=name, fix=fix)
        if (uid, name) in self._regions:
            fix = "unregister it first, or use another name"
            raise AlreadyExistsError("a region of this name is registered", field="name", value=name, fix=fix)
        if len(self._regions) >= self.limit:
            fix = "unregister regions that are not used any more; one region can hold many tensors"
            raise TooLargeError("too many regions are registered", field="name", value=len(self._regions), fix=fix)
        opened = _open(key, uid)
        size = os.fstat(opened.number).st_size
        if size_bytes < 1 or offset + size_bytes > size:
            fix = f"the object has {size:,} bytes; register a part of them"
            value = f"{size_bytes} bytes from {offset} on"
            raise InvalidInputError("the region is not within its object", field="byte_size", value=value, fix=fix)
        self._regions[uid, name] = Region(name, key, offset, size_bytes, opened)

    def unregister(self, uid: int, name: str = "") -> None:
        """Forget a region, or all of a user's; one that is not there is gone already."""
        for key in [key for key in self._regions if key[0] == uid and name in {"", key[1]}]:
            del self._regions[key]

    def close(self) -> None:
        """Forget all."""
        self._regions.clear()

    def status(self, uid: int, name: str = "") -> list[Region]:
        """A region, or all of a user's. Raises NotFoundError for a name that is not registered."""
        if name:
            return [self._find(uid, name, "name")]
        return [region for (owner, _), region in self._regions.items() if owner == uid]

    def read(self, uid: int, at: Place, field: str) -> bytes:
        """Copy a tensor's bytes.

        Raises NotFoundError, InvalidInputError for what is not within the region, TooLargeError for more than a message
        may hold.
        """
        region = self._part(uid, at, field)
        if at.size_bytes > MAX_MESSAGE_BYTES:
            fix = f"use at most {MAX_MESSAGE_BYTES:,} bytes in a request"
            raise TooLargeError("the input is too large", field=field, value=at.size_bytes, fix=fix)
        data = os.pread(region.opened.number, at.size_bytes, region.offset + at.offset)
        if len(data) != at.size_bytes:
            raise _cut_short(region, field)
        return data

    def write(self, uid: int, at: Place, data: bytes, field: str) -> None:
        """Put a tensor's bytes there. Raises as `check` does."""
        region = self.check(uid, at, field, len(data))
        if os.pwrite(region.opened.number, data, region.offset + at.offset) != len(data):
            raise _cut_short(region, field)

    def check(self, uid: int, at: Place, field: str, size_bytes: int = 0) -> Region:
        """The region of a place where so many bytes can lie; raises NotFoundError or InvalidInputError for another."""
        region = self._part(uid, at, field)
        if region.offset + at.offset + size_bytes > os.fstat(region.opened.number).st_size:
            raise _cut_short(region, field)
        return region

    def _part(self, uid: int, at: Place, field: str) -> Region:
        region = self._find(uid, at.region, field)
        if at.offset + at.size_bytes > region.size_bytes:
            value = f"{at.size_bytes} bytes from {at.offset} on"
            fix = f"region {region.name} has {region.size_bytes:,} bytes; use a part of them, or register a larger one"
            raise InvalidInputError("not within the region", field=field, value=value, fix=fix)
        return region

    def _find(self, uid: int, name: str, field: str) -> Region:
        region = self._regions.get((uid, name))
        if region is None:
            fix = "register it first, as the same user"
            raise NotFoundError("no such shared memory region", field=field, value=name, fix=fix)
        return region


@dataclass(frozen=True, slots=True)
class Memory:
    """The regions of whoever asks; `user` tells who that is, and raises where nobody knows."""

    regions: Regions
    user: Callable[[], int]

    def read(self, at: Place, field: str) -> bytes:
        """As `Regions.read`."""
        return self.regions.read(self.user(), at, field)

    def check(self, at: Place, field: str, size_bytes: int = 0) -> None:
        """As `Regions.check`."""
        self.regions.check(self.user(), at, field, size_bytes)

    def write(self, at: Place, data: bytes, field: str) -> None:
        """As `Regions.write`."""
        self.regions.write(self.user(), at, data, field)


def _open(key: str, uid: int) -> _Opened:
    fix = "create it first, as the user who registers it, with a name without slashes"
    found = KEY.fullmatch(key)
    if found is None or found[1] in {".", ".."}:
        raise InvalidInputError("not the key of a shared memory object", field="key", value=key, fix=fix)
    try:
        number = os.open(FOLDER / found[1], os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError as error:
        message = "the server may not open this shared memory object"
        fix = "let the user that the server runs as read and write it: mode 0666, or a group that both are in and 0660"
        raise InvalidInputError(message, field="key", value=key, fix=fix) from error
    except (OSError, ValueError) as error:
        what = (error.strerror if isinstance(error, OSError) else None) or "it has no such name"
        message = f"can not open the shared memory object: {what}"
        raise InvalidInputError(message, field="key", value=key, fix=fix) from error
    opened = _Opened(number)
    facts = os.fstat(number)
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != uid:
        raise InvalidInputError("this is no shared memory object of yours", field="key", value=key, fix=fix)
    return opened


def _cut_short(region: Region, field: str) -> InvalidInputError:
    fix = "keep the object as large as it was when it was registered, or register it again"
    return InvalidInputError("the object is smaller by now", field=field, value=region.key, fix=fix)
