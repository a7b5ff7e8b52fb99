"""Calls to the engine that one Triton hosts. Each ends within its limit, by an answer or an error of ours."""

from __future__ import annotations

import hashlib
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import torch
from torch import Tensor
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lensmount.errors import IncompatibleError, LensmountError, TooLargeError, UnavailableError
from lensmount_server.engine.plan import Pass
from lensmount_server.triton import messages
from lensmount_server.triton.mapped import Mapped
from lensmount_server.triton.shared import Region
from lensmount_server.triton.wire import (
    FIX,
    MODEL,
    ContentHash,
    Description,
    Expected,
    NotMountedError,
    Op,
    Place,
    Reply,
    Request,
    Rows,
    read_logits,
    read_reply,
    wrong,
)

UNLIMITED = -1
OPTIONS = [
    ("grpc.max_send_message_length", UNLIMITED),
    ("grpc.max_receive_message_length", UNLIMITED),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]
# A protobuf message holds less than 2 GiB.
MAX_PACKAGE_BYTES = (2 << 30) - (1 << 20)
CALL_S = 5.0
UPLOAD_S = 60.0
MOUNT_S = 120.0
POLL_S = 0.02
START = "start tritonserver with the folder that `lensmount export triton` wrote"


class GivenUpError(UnavailableError):
    """The call was given up by this side, because of what is known by now."""


class SilentError(UnavailableError):
    """No answer came within the limit."""


class Instance:
    """The engine at `url`; for any thread. `boot` is the one that answered last, "" before the first answer.

    Every call raises UnavailableError where the Triton does not answer, NotMountedError where it started anew,
    ServerError for a reply that can not be right, and the hosted engine's own errors.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.boot = ""
        self._channel = grpc.insecure_channel(url, OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._numbers = itertools.count(1)
        self._mapped = Mapped(self._stub)
        self.shares_memory = False
        self._turn = threading.Lock()
        self._closed = False
        self._calls: set[Any] = set()

    def describe(self) -> Description:
        """What is hosted there now; whichever boot answers is the one that is believed from here on."""
        self.boot = ""
        reply = self._call(self._request(Op.DESCRIBE), CALL_S)
        if reply.description is None:
            raise wrong("it does not describe its engine", self.url)
        self.boot = reply.boot
        return reply.description

    def share_memory(self) -> None:
        """Find out whether pictures can go through memory that the Triton maps too; from now on they do."""
        self.shares_memory = True
        self._mapped.leave()
        probe = torch.frombuffer(bytearray(secrets.token_bytes(3 * 32 * 32)), dtype=torch.uint8).view(1, 3, 32, 32)
        try:
            request = self._request(Op.LOOK)
            seen = self._call(request, CALL_S, self._with(probe, CALL_S)).seen
            self.shares_memory = seen == hashlib.sha256(probe.numpy().tobytes()).hexdigest()
            self._mapped.sweep()
        except LensmountError:
            self.shares_memory = False

    def is_ready(self, limit_s: float) -> bool:
        """Whether the Triton says that it serves the model."""
        try:
            return bool(self._stub.ModelReady(service_pb2.ModelReadyRequest(name=MODEL), timeout=limit_s).ready)
        except grpc.RpcError:
            return False

    def mount(self, content_hash: ContentHash, archive: bytes) -> None:
        """Send a package and wait until its adapter can answer there. Raises its error when it can not."""
        if len(archive) > MAX_PACKAGE_BYTES:
            fix = "serve this adapter with --backend torch, or train a smaller one"
            raise TooLargeError("the package is too large for a message", field="triton", value=len(archive), fix=fix)
        request = self._request(Op.MOUNT, content_hash)
        place = self._call(request, UPLOAD_S, lambda message: messages.with_package(message, archive)).place
        self.wait_for(content_hash, (Place.MOUNTED, Place.SETTLED), MOUNT_S, place)

    def wait_for(
        self, content_hash: ContentHash, places: Sequence[Place], limit_s: float, place: Place | None = None
    ) -> None:
        """Wait until an adapter is in one of `places`, at most so long: raises UnavailableError then."""
        until, pause = time.monotonic() + limit_s, POLL_S
        while place not in places:
            if place is Place.ABSENT:
                raise NotMountedError(self.url)
            if time.monotonic() > until:
                raise self._unavailable(f"an adapter is not {places[0].value} after {limit_s:g} s", "look at its log")
            if place is not None:
                time.sleep(pause)
                pause = min(pause * 1.5, 0.5)
            place = self._call(self._request(Op.STATE, content_hash), CALL_S).place

    def unmount(self, content_hash: ContentHash) -> None:
        """Have an adapter forgotten."""
        self._call(self._request(Op.UNMOUNT, content_hash), CALL_S)

    def run(self, work: Pass, pictures: Tensor, limit_s: float) -> tuple[list[Tensor], tuple[int, ...]]:
        """Logits (frames, labels) of each group of `work`, and the rows that went through each segment for it."""
        rows = tuple(Rows(content_hash=group.adapter.content_hash, frames=group.frames) for group in work.groups)
        request = self._request(Op.RUN, rows=rows, preprocessing=work.preprocessing)
        expected = [
            Expected(group.adapter.content_hash, len(group.frames), len(group.adapter.manifest.labels))
            for group in work.groups
        ]
        until = time.monotonic() + limit_s
        # The region holds the pictures of one request.
        if not self._turn.acquire(timeout=limit_s):
            raise self._silent(limit_s)
        try:
            add = self._with(pictures, max(until - time.monotonic(), 0))
            outputs = self._send(request, max(until - time.monotonic(), 0), add)
        finally:
            self._turn.release()
        reply = self._read(outputs, request)
        self._mapped.sweep()
        return read_logits(outputs, expected, self.url), reply.segment_rows

    def give_up(self) -> None:
        """End all calls under way by GivenUpError."""
        for call in list(self._calls):
            call.cancel()

    def stop(self) -> None:
        """End all calls, those to come too."""
        self._closed = True
        self.give_up()

    def close(self) -> None:
        """Let go of the Triton."""
        self.stop()
        self._mapped.close()
        self._channel.close()

    def _request(self, op: Op, content_hash: ContentHash = "", **more: Any) -> Request:
        return Request(id=next(self._numbers), op=op, content_hash=content_hash, **more)

    def _call(self, request: Request, limit_s: float, add: Callable[[Any], Any] = lambda message: message) -> Reply:
        return self._read(self._send(request, limit_s, add), request)

    def _read(self, outputs: dict[str, bytes], request: Request) -> Reply:
        reply = read_reply(outputs, request, self.url)
        if self.boot and reply.boot != self.boot:
            raise NotMountedError(self.url)
        return reply

    def _send(self, request: Request, limit_s: float, add: Callable[[Any], Any]) -> dict[str, bytes]:
        if self._closed:
            raise self._given_up()
        call = self._stub.ModelInfer.future(add(messages.ask(request)), timeout=limit_s)
        self._calls.add(call)
        try:
            return messages.outputs_of(call.result())
        except grpc.FutureCancelledError as error:
            raise self._given_up() from error
        except grpc.RpcError as error:
            raise self._error(error, limit_s) from error
        finally:
            self._calls.discard(call)

    def _error(self, error: grpc.RpcError, limit_s: float) -> LensmountError:
        code, details = error.code(), (error.details() or "").strip().splitlines()
        told = details[0] if details else code.name
        match code:
            case grpc.StatusCode.CANCELLED:
                return self._given_up()
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return self._silent(limit_s)
            case grpc.StatusCode.INVALID_ARGUMENT if "shared memory" in told:
                return NotMountedError(self.url)  # it started anew, and knows no region
            case grpc.StatusCode.INVALID_ARGUMENT:
                message = f"its model takes other tensors: {told}"
                return IncompatibleError(message, field="triton", value=self.url, fix=FIX)
        return self._unavailable(told, START)

    def _given_up(self) -> GivenUpError:
        return GivenUpError("it is away", field="triton", value=self.url, fix="call again")

    def _silent(self, limit_s: float) -> SilentError:
        fix = "look whether it is overloaded, or hangs"
        return SilentError(f"no answer within {limit_s:.3g} s", field="triton", value=self.url, fix=fix)

    def _unavailable(self, message: str, fix: str) -> UnavailableError:
        return UnavailableError(message, field="triton", value=self.url, fix=fix)

    def _with(self, pictures: Tensor, limit_s: float) -> Callable[[Any], Any]:
        """Adds pictures to a message, by the way that this Triton takes them."""
        shape, pictures = tuple(pictures.shape), pictures.contiguous()
        region = self._region_of(pictures.numel(), limit_s) if self.shares_memory else None
        if region is None:
            data = pictures.numpy().tobytes()
            return lambda message: messages.with_pictures(message, data, shape)
        region.put(pictures)
        return lambda message: messages.with_shared_pictures(message, region.name, pictures.numel(), shape)

    def _region_of(self, size_bytes: int, limit_s: float) -> Region | None:
        try:
            return self._mapped.of(size_bytes, limit_s)
        except grpc.RpcError as error:
            raise self._error(error, limit_s) from error
