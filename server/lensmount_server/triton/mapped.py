"""The regions of shared memory that one Triton maps for this server: the one in use, and those that it shall forget."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from lensmount_server.triton.shared import Region

FORGET_S = 5.0
# After these the Triton may map the region still.
UNHEARD = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


class Mapped:
    """What `stub` (GRPCInferenceService) is told of shared memory; for any thread."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._region: Region | None = None
        self._left: set[str] = set()

    def of(self, size_bytes: int, limit_s: float) -> Region | None:
        """A region of at least so many bytes which the Triton has mapped; None where there is no memory for it.

        Raises grpc.RpcError where the Triton does not map it in time.
        """
        if self._region is not None and self._region.size_bytes >= size_bytes:
            return self._region
        size_bytes = 1 << (size_bytes - 1).bit_length()  # so that it does not grow with every batch
        try:
            region = Region(size_bytes)
        except OSError:
            return None
        request = service_pb2.SystemSharedMemoryRegisterRequest(name=region.name, key=region.key, byte_size=size_bytes)
        try:
            self._stub.SystemSharedMemoryRegister(request, timeout=limit_s)
        except grpc.RpcError:
            self._left.add(region.name)  # it may have been too late with saying so
            raise
        finally:
            region.forget_name()
        self.leave()
        self._region = region
        return region

    def leave(self) -> None:
        """Use what is mapped no more."""
        if self._region is not None:
            self._left.add(self._region.name)
            self._region = None

    def sweep(self) -> None:
        """Have the Triton forget what is not in use, without waiting for it; what it does not hear it is told again.

        For the moment behind an answer: what was asked before, and may read there, is done by then.
        """
        names, self._left = self._left, set()
        for name in names:
            request = service_pb2.SystemSharedMemoryUnregisterRequest(name=name)
            call = self._stub.SystemSharedMemoryUnregister.future(request, timeout=FORGET_S)
            call.add_done_callback(partial(self._swept, name))

    def close(self) -> None:
        """Have it forget all."""
        self.leave()
        with suppress(grpc.RpcError):  # it is gone, and the regions with it
            for name in self._left:
                request = service_pb2.SystemSharedMemoryUnregisterRequest(name=name)
                self._stub.SystemSharedMemoryUnregister(request, timeout=FORGET_S)

    def _swept(self, name: str, call: Any) -> None:
        if call.code() in UNHEARD:
            self._left.add(name)
