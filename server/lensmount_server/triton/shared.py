"""Pictures in memory that a Triton on this host maps too (POSIX shared memory).

The region's name is gone as soon as Triton has mapped it: nothing is left behind, whoever is killed.
"""

from __future__ import annotations

import mmap
import os
import secrets
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps what shm_open names


class Region:
    """A region of `size_bytes`; `name` is what it is called, `key` its name in the file system while it has one.

    Raises OSError where there is no shared memory.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.name = f"lensmount-{os.getpid()}-{secrets.token_hex(6)}"
        self.key = f"/{self.name}"
        file = os.open(FOLDER / self.name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(file, 0, size_bytes)
            self._memory = mmap.mmap(file, size_bytes)
        except BaseException:
            self.forget_name()
            raise
        finally:
            os.close(file)
        self._bytes = torch.frombuffer(self._memory, dtype=torch.uint8)

    def put(self, pictures: Tensor) -> None:
        """Copy pictures (uint8) to the region's start."""
        self._bytes[: pictures.numel()].view(pictures.shape).copy_(pictures)

    def forget_name(self) -> None:
        """Remove it from the file system; who has mapped it keeps it."""
        with suppress(FileNotFoundError):
            (FOLDER / self.name).unlink()
