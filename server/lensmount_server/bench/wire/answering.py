"""A server that only answers: what gRPC itself costs here, and so the most that a Python server of it can reach.

`python -m lensmount_server.bench.wire.answering FILE` prints its port; FILE is as the load generator's. It knows a
picture by its beginning and computes nothing.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lensmount.errors import ServerError
from lensmount_server.app import OPTIONS
from lensmount_server.bench.wire.load import OUTPUT
from lensmount_server.services.registering import by_name

LIMIT_S = 3600.0
# Bytes that tell the pictures apart.
BEGIN = 1024


class Answering(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # tritonclient has no types
    """Knows the scores of some pictures."""

    def __init__(self, pictures: Any, expected: Any) -> None:
        rows = zip(pictures, expected, strict=True)
        self._known = {picture.tobytes()[:BEGIN]: row.astype("<f4").tobytes() for picture, row in rows}
        self._labels = expected.shape[1]
        if len(self._known) != len(pictures):
            raise ValueError("two pictures begin alike")

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - gRPC's signature
        """What this picture must be answered."""
        made = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        made.outputs.add(name=OUTPUT, datatype="FP32", shape=[1, self._labels])
        made.raw_output_contents.append(self._known[request.raw_input_contents[0][:BEGIN]])
        return made

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """The same on a stream."""
        async for request in requests:
            yield service_pb2.ModelStreamInferResponse(infer_response=await self.ModelInfer(request, context))


@contextmanager
def answering(held: Path, log: Path) -> Iterator[str]:
    """The address of such a server in a process of its own."""
    command = [sys.executable, "-m", "lensmount_server.bench.wire.answering", str(held)]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,  # noqa: S603 - our own
    ):
        try:
            port = process.stdout.readline().strip() if process.stdout else ""
            if not port:
                told = log.read_text(errors="replace")[-2000:]
                raise ServerError("the server that only answers did not start", field="bench", value=held, fix=told)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


async def _main(file: str) -> None:
    with np.load(file) as held:
        servicer = Answering(held["pictures"], held["expected"])
    server = grpc.aio.server(options=OPTIONS)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, by_name(server))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination(LIMIT_S)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
