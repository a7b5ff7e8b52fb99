"""The server put together: backbone, engine, registry, sources and the gRPC services on one event loop."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from tritonclient.grpc import service_pb2_grpc as kserve_pb2_grpc

from lensmount.errors import UnavailableError
from lensmount.v1 import (
    adapters_pb2,
    adapters_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    sources_pb2,
    sources_pb2_grpc,
)  # fmt: skip
from lensmount_adapters.backbones import Backbone, load_backbone
from lensmount_server.backends import open_backend
from lensmount_server.catalog import Catalog
from lensmount_server.config import ServeConfig
from lensmount_server.engine.runtime import Engine
from lensmount_server.hotset import HotSet
from lensmount_server.hub import Hub
from lensmount_server.kserve import errors as kserve_errors
from lensmount_server.kserve.service import SERVICE as KSERVE
from lensmount_server.kserve.service import KServeService
from lensmount_server.metrics import Snapshot, metrics_server
from lensmount_server.mounts import Mounts
from lensmount_server.registry import Registry
from lensmount_server.remembered import choose_backbone, remember_backbone
from lensmount_server.scheduler import Scheduler
from lensmount_server.services.adapters import AdapterService
from lensmount_server.services.errors import TRANSPORT_BYTES, ErrorInterceptor
from lensmount_server.services.health import health_of
from lensmount_server.services.inference import InferenceService
from lensmount_server.services.registering import by_name
from lensmount_server.services.sources import SourceService
from lensmount_server.sources.connecting import SourceOptions
from lensmount_server.sources.manager import SourceManager
from lensmount_server.sources.store import SourceStore
from lensmount_server.workers.pool import PoolOptions, WorkerPool
from lensmount_server.workers.zygote import Zygote

log = logging.getLogger(__name__)

GRACE_S = 5.0
# What a client may send on a stream before it is read.
WINDOW_BYTES = 4 << 20

OPTIONS = [
    ("grpc.max_receive_message_length", TRANSPORT_BYTES),
    ("grpc.max_send_message_length", TRANSPORT_BYTES),
    # Two servers on one port would share its clients in silence.
    ("grpc.so_reuseport", 0),
    # A picture of 224 pixels in one go. gRPC's own probing begins with 64 KiB, and does not find what a host can do.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
]

SERVICES = [
    *(service.full_name for service in inference_pb2.DESCRIPTOR.services_by_name.values()),
    *(service.full_name for service in adapters_pb2.DESCRIPTOR.services_by_name.values()),
    *(service.full_name for service in sources_pb2.DESCRIPTOR.services_by_name.values()),
    KSERVE,
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
]
# Those that answer frames: they are healthy while the engine can.
ANSWERING = [inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name, KSERVE]


async def serve(config: ServeConfig, on_ready: Callable[[str, Backbone], None]) -> None:
    """Serve until SIGINT or SIGTERM; `on_ready` is called with the address that was bound.

    Raises InvalidInputError or UnavailableError when the server can not start.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running(config) as (address, backbone):
        on_ready(address, backbone)
        await stop.wait()
        log.info("stopping")


@asynccontextmanager
async def running(config: ServeConfig, zygote: Zygote | None = None) -> AsyncIterator[tuple[str, Backbone]]:
    """A server that runs while the context is open; gives the address that was bound.

    Several servers of one process may share a `zygote`; without, it starts its own.
    """
    host, port = config.host_port
    name = await asyncio.to_thread(choose_backbone, config.backbone, config.data_dir)
    async with AsyncExitStack() as stack:
        registry = Registry(config.data_dir, config.places)
        stack.callback(registry.close)
        pool = WorkerPool(zygote, PoolOptions(most=config.decode_workers))  # loads beside the backbone
        stack.push_async_callback(pool.close)
        backbone = await asyncio.to_thread(load_backbone, name, config.weights)
        await asyncio.to_thread(remember_backbone, name, config.data_dir)
        mounts = Mounts(HotSet(config.hot))
        urls, package = config.triton_urls, registry.package
        engine = await asyncio.to_thread(open_backend, backbone, config.engine, urls, package)
        stack.callback(engine.close)
        scheduler = Scheduler(engine, mounts)
        stack.push_async_callback(scheduler.close)
        catalog = Catalog(registry, mounts, scheduler, config.policy, config.keep_versions)
        stack.push_async_callback(catalog.close)
        await catalog.load_aliases()
        hub = Hub()
        catalog.follower.on_gone = hub.end_task
        store = SourceStore(config.data_dir / "sources.json")
        options = SourceOptions(addresses=config.addresses)
        sources = SourceManager(catalog, hub, pool, options, pin=catalog.pinned, store=store)
        stack.push_async_callback(sources.close)
        metrics = config.metrics_host_port
        if metrics is not None:
            snapshot = functools.partial(_snapshot, catalog, sources, pool, engine)
            await stack.enter_async_context(metrics_server(*metrics, snapshot))
        server = grpc.aio.server(interceptors=[ErrorInterceptor({KSERVE: kserve_errors.status})], options=OPTIONS)
        services = by_name(server)
        _add_services(services, catalog, scheduler, pool, sources, hub)
        kserve = KServeService(catalog)
        stack.callback(kserve.regions.close)
        kserve_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(kserve, services)
        healthy = await stack.enter_async_context(health_of(services, SERVICES, ANSWERING, engine))
        bound = kserve.port = _bind(server, host, port)
        await sources.restore()
        await server.start()
        stack.push_async_callback(server.stop, GRACE_S)
        stack.push_async_callback(healthy.enter_graceful_shutdown)
        stack.callback(catalog.follower.dismiss)
        stack.callback(hub.close)
        yield f"{host}:{bound}", backbone


def _snapshot(catalog: Catalog, sources: SourceManager, pool: WorkerPool, engine: Engine) -> Snapshot:
    follower = catalog.follower
    state, workers = catalog.residency.state(), len(pool.workers)
    return Snapshot(sources.list(), workers, engine.counters(), state, follower.seq, follower.behind_s)


def _add_services(
    server: grpc.aio.Server,
    catalog: Catalog,
    scheduler: Scheduler,
    pool: WorkerPool,
    sources: SourceManager,
    hub: Hub,
) -> None:
    inference = InferenceService(catalog, scheduler.engine, pool)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server)
    adapters_pb2_grpc.add_AdapterServiceServicer_to_server(AdapterService(catalog), server)
    sources_pb2_grpc.add_SourceServiceServicer_to_server(SourceService(catalog, sources, hub), server)
    reflecting = reflection.aio.ReflectionServicer(SERVICES)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflecting, server)  # type: ignore[no-untyped-call] # without types


def _bind(server: grpc.aio.Server, host: str, port: int) -> int:
    fix = "give --address another port; 127.0.0.1:0 takes a free one"
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise UnavailableError(f"can not listen: {error}", field="address", value=f"{host}:{port}", fix=fix) from error
    if not bound:
        raise UnavailableError("can not listen", field="address", value=f"{host}:{port}", fix=fix)
    return bound
