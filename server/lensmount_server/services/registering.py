"""How services come to the server: found by the name in each call, not registered with gRPC's core.

For each method that is registered grpc.aio keeps a task, and goes over all of them for every call that comes
(`asyncio.wait`): with some fifty methods that was half of the calls of Python functions that a request takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import grpc


def by_name(server: grpc.aio.Server) -> grpc.aio.Server:
    """What generated code is given in place of `server`, to add a service to it."""
    return cast("grpc.aio.Server", _ByName(server))


class _ByName:
    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """As the server's."""
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Nothing: they are among the others."""
