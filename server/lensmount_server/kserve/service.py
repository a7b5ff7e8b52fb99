"""inference.GRPCInferenceService: every RPC of it, in terms of the parts beside this file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

from tritonclient.grpc import service_pb2

import lensmount
from lensmount.errors import InvalidInputError, LensmountError, NotFoundError, UnimplementedError
from lensmount_server.catalog import Catalog
from lensmount_server.defects import known
from lensmount_server.frames import VersionId
from lensmount_server.kserve import models
from lensmount_server.kserve.errors import sentence
from lensmount_server.kserve.inferring import Inferring
from lensmount_server.kserve.neighbours import Caller
from lensmount_server.kserve.repository import Repository, check_repository
from lensmount_server.kserve.shared_memory import Regions
from lensmount_server.kserve.statistics import Statistics, Sums, told
from lensmount_server.kserve.streaming import answered
from lensmount_server.registry import Record
from lensmount_server.services.caller import caller
from lensmount_server.services.errors import Context

SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
EXTENSIONS = (
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
    "system_shared_memory",
)
# On every response of a stream, as there is one to a request.
FINAL = "triton_final_response"


class KServeService:
    """Translates between KServe's messages and the catalog; `port` is where the server listens, once it does."""

    def __init__(self, catalog: Catalog) -> None:
        self.port = 0
        self.regions = Regions()
        self._catalog = catalog
        self._statistics = Statistics()
        self._repository = Repository(catalog)
        self._inferring = Inferring(catalog, self.regions, self._statistics)

    async def ServerLive(self, request: Any, context: Context) -> Any:
        """Whether the server is there."""
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Context) -> Any:
        """Whether it can answer now."""
        return service_pb2.ServerReadyResponse(ready=self._catalog.engine.answers)

    async def ModelReady(self, request: Any, context: Context) -> Any:
        """Whether a model can answer."""
        return service_pb2.ModelReadyResponse(ready=await self._repository.is_ready(request.name, request.version))

    async def ServerMetadata(self, request: Any, context: Context) -> Any:
        """Name, version and extensions."""
        version = lensmount.__version__
        return service_pb2.ServerMetadataResponse(name="lensmount", version=version, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: Any, context: Context) -> Any:
        """Inputs and outputs."""
        record, versions = await self._found(request)
        return models.metadata(request.name, record.manifest, versions)

    async def ModelConfig(self, request: Any, context: Context) -> Any:
        """The same, and how requests are put together."""
        record, versions = await self._found(request)
        return service_pb2.ModelConfigResponse(config=models.config(request.name, record.id, record.manifest, versions))

    async def ModelInfer(self, request: Any, context: Context) -> Any:
        """A request."""
        return await self._inferring.infer(request, self._caller(context), context.time_remaining())

    async def ModelStreamInfer(self, request_iterator: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        """Requests as they come; one that fails is answered with its error, and the stream goes on."""
        answer = partial(self._streamed, self._caller(context), context)
        async with aclosing(answered(request_iterator, answer)) as responses:
            async for response in responses:
                yield response

    async def ModelStatistics(self, request: Any, context: Context) -> Any:
        """What requests took."""
        if not request.name:
            return told(self._statistics.of(), await self._repository.aliases())
        try:
            want = models.wanted(request.name, request.version)
            version = await self._version(request)
        except NotFoundError as error:
            raise InvalidInputError(error.message, field="name", value=error.value, fix=error.fix) from error
        name = models.name_of(want.task, want.alias)
        found = dict(self._statistics.of(name, want.version))
        found.setdefault((name, version.version), Sums())
        return told(((request.name, number), sums) for (_, number), sums in sorted(found.items()))

    async def RepositoryIndex(self, request: Any, context: Context) -> Any:
        """All models."""
        check_repository(request.repository_name)
        index = service_pb2.RepositoryIndexResponse
        listed = await self._repository.index(ready_only=request.ready)
        return index(models=[index.ModelIndex(**{**vars(each), "version": str(each.version)}) for each in listed])

    async def RepositoryModelLoad(self, request: Any, context: Context) -> Any:
        """Have a model ready; promote where a version is given."""
        check_repository(request.repository_name)
        await self._repository.load(request.model_name, request.parameters, caller(context))
        return service_pb2.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Context) -> Any:
        """Take an alias away."""
        check_repository(request.repository_name)
        await self._repository.unload(request.model_name, caller(context))
        return service_pb2.RepositoryModelUnloadResponse()

    async def SystemSharedMemoryStatus(self, request: Any, context: Context) -> Any:
        """The caller's regions."""
        made = service_pb2.SystemSharedMemoryStatusResponse()
        for region in self.regions.status(self._caller(context).user(), request.name):
            own = made.regions[region.name]
            own.name, own.key, own.offset, own.byte_size = region.name, region.key, region.offset, region.size_bytes
        return made

    async def SystemSharedMemoryRegister(self, request: Any, context: Context) -> Any:
        """Register a region."""
        user = self._caller(context).user()
        self.regions.register(user, request.name, request.key, request.offset, request.byte_size)
        return service_pb2.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(self, request: Any, context: Context) -> Any:
        """Forget a region, or all of the caller's."""
        self.regions.unregister(self._caller(context).user(), request.name)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(self, request: Any, context: Context) -> Any:
        """None: there are no such regions. Raises NotFoundError for one by name."""
        if request.name:
            fix = "use system shared memory"
            raise NotFoundError("no such CUDA shared memory region", field="name", value=request.name, fix=fix)
        return service_pb2.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(self, request: Any, context: Context) -> Any:
        """Not here."""
        raise _not_here("CUDA shared memory", "use system shared memory, or send the tensors in the message")

    async def CudaSharedMemoryUnregister(self, request: Any, context: Context) -> Any:
        """None is registered, so none is afterwards."""
        return service_pb2.CudaSharedMemoryUnregisterResponse()

    async def TraceSetting(self, request: Any, context: Context) -> Any:
        """Not here."""
        raise _not_here("tracing", "every response tells queue_ms and inference_ms; --metrics-address has sums")

    async def LogSettings(self, request: Any, context: Context) -> Any:
        """Not here."""
        raise _not_here("changing the log", "start `lensmount serve` with the log that you want")

    def _caller(self, context: Context) -> Caller:
        return Caller(context.peer(), self.port)

    async def _found(self, request: Any) -> tuple[Record, list[int]]:
        """The version that a model stands for now, and the one that is asked for, or all. Raises NotFoundError."""
        version = await self._version(request)
        record = await asyncio.to_thread(self._catalog.registry.get, version.task, version.version)
        return record, [version.version] if request.version else await self._repository.answering(version.task)

    async def _version(self, request: Any) -> VersionId:
        """The version that a model stands for now. Raises NotFoundError."""
        want = models.wanted(request.name, request.version)
        known = self._catalog.version(want)
        if known is not None:
            return known
        return await asyncio.to_thread(self._catalog.registry.identify, want.task, want.version)

    async def _streamed(self, asking: Caller, context: Context, request: Any) -> Any:
        made = service_pb2.ModelStreamInferResponse
        try:
            answer = await self._inferring.infer(request, asking, context.time_remaining())
            answer.parameters[FINAL].bool_param = True
            return made(infer_response=answer)
        except Exception as error:  # noqa: BLE001 - what is wrong with one request ends no other
            return _failed(request, known(error))


def _failed(request: Any, error: LensmountError) -> Any:
    """The error of one request of a stream; clients that see the sentence alone find its id there."""
    ours = service_pb2.ModelInferResponse(model_name=request.model_name[: models.MAX_NAME], id=request.id)
    ours.parameters[FINAL].bool_param = True
    about = f"[request id: {request.id[:100]}] " if request.id else ""
    return service_pb2.ModelStreamInferResponse(error_message=about + sentence(error), infer_response=ours)


def _not_here(what: str, fix: str) -> UnimplementedError:
    return UnimplementedError(f"{what} is not part of this server", fix=fix)
