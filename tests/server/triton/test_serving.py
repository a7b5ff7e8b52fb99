"""A whole lensmount server whose batches a real Triton computes: register, swap under load, survive."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from safetensors.torch import save_file

from factories import random_backbone
from kserving import shots_of, triton_of, triton_refused
from lensmount.errors import IncompatibleError, LensmountError, UnavailableError
from lensmount.v1 import inference_pb2
from lensmount_server.backends import TRITON
from lensmount_server.config import ServeConfig
from lensmount_server.doctor import examine
from lensmount_server.engine.settings import EngineSettings
from serving import CLOSE, PATIENCE_S, Kit, Served, eventually, serving
from triton_server import TritonServer
from tritons import SHOTS

pytestmark = pytest.mark.triton


@asynccontextmanager
async def on(kit: Kit, data_dir: Path, *servers: TritonServer, **more: Any) -> AsyncIterator[Served]:
    urls = tuple(server.url for server in servers)
    async with serving(kit, data_dir, engine=EngineSettings(), backend=TRITON, triton_urls=urls, **more) as served:
        yield served


@dataclass(frozen=True)
class Row:
    """One answer: which picture, the version that it names, its scores by label."""

    shot: int
    version: int
    scores: tuple[float, ...]


def misrouted(kit: Kit, rows: list[Row]) -> list[Row]:
    """Answers that are not what the version which they name answers."""
    return [
        row
        for row in rows
        if row.scores != pytest.approx(kit.defect[row.version - 1].scores(SHOTS[row.shot]), abs=CLOSE)
    ]


async def ask(server: Served, shot: int) -> Row:
    (result,) = await server.client.infer(SHOTS[shot], ["defect"], timeout=PATIENCE_S)
    return Row(shot, result.adapter.version, tuple(each.score for each in result.scores))


def grown(rows: list[Row], size: int) -> bool:
    return len(rows) >= size


async def test_swaps_under_load_lose_and_misroute_nothing(kit: Kit, tmp_path: Path, both: list[TritonServer]) -> None:
    rows: list[Row] = []
    done = asyncio.Event()
    async with on(kit, tmp_path / "data", *both) as server:
        for version in kit.defect:
            await server.client.register(version.folder, alias="live")

        async def call() -> None:
            draw = random.Random(len(rows))
            while not done.is_set():
                rows.append(await ask(server, draw.randrange(len(SHOTS))))

        async def swap() -> None:
            for turn in range(12):
                before = len(rows)
                await server.client.set_alias("defect", 1 + turn % 3, "live")
                await eventually(partial(grown, rows, before + 15), "answers")
            done.set()

        await asyncio.wait_for(asyncio.gather(swap(), *(call() for _ in range(6))), 2 * PATIENCE_S)
    assert len(rows) >= 180
    assert {row.version for row in rows} == {1, 2, 3}
    assert misrouted(kit, rows) == []
    exchanged = [replace(row, version=1 + row.version % 3) for row in rows]
    assert len(misrouted(kit, exchanged)) == len(rows)


async def test_the_golden_check_goes_through_the_triton(kit: Kit, tmp_path: Path, triton: TritonServer) -> None:
    async with on(kit, tmp_path / "data", triton) as server:
        found = await server.client.register(kit.surface.folder, alias="live")
        assert [check.name for check in found.checks][-3:] == ["warm-up", "golden", "policy"]
        info = await server.inference.GetServerInfo(inference_pb2.GetServerInfoRequest())
        assert info.engine_info.name == "triton"
        assert triton.url in info.engine_info.reason
        assert info.precision == "fp32"
        assert info.engine.rows == 2  # the golden pictures


async def test_it_answers_again_when_the_triton_is_back(kit: Kit, tmp_path: Path, triton: TritonServer) -> None:
    async with on(kit, tmp_path / "data", triton) as server:
        await server.client.register(kit.defect[0].folder, alias="live")
        await asyncio.to_thread(triton.unload)
        loading = asyncio.create_task(asyncio.to_thread(triton.load))
        rows: list[Row] = []
        errors: list[LensmountError] = []
        async with asyncio.timeout(2 * PATIENCE_S):
            while len(rows) < 5:
                try:
                    rows.append(await ask(server, 0))
                except LensmountError as error:
                    errors.append(error)
                    await asyncio.sleep(0.1)
        await loading
    assert misrouted(kit, rows) == []
    assert all(isinstance(error, UnavailableError) and error.field == "triton" for error in errors)


async def ready(server: Served) -> dict[str, bool]:
    """What is told of the server, by each way to ask."""
    check: Any = health_pb2_grpc.HealthStub(server.channel)
    told = [await check.Check(health_pb2.HealthCheckRequest(service=each)) for each in ("", "grpc.health.v1.Health")]
    async with triton_of(server) as client:
        index = (await client.get_model_repository_index()).models
        return {
            "health": told[0].status == health_pb2.HealthCheckResponse.SERVING,
            "alive": told[1].status == health_pb2.HealthCheckResponse.SERVING and await client.is_server_live(),
            "server": await client.is_server_ready(),
            "model": await client.is_model_ready("defect"),
            "index": {each.state for each in index} == {"READY"},
        }


async def until_told(server: Served, *, there: bool) -> None:
    wanted = {"health": there, "alive": True, "server": there, "model": there, "index": there}
    for _ in range(round(PATIENCE_S / 0.05)):
        if await ready(server) == wanted:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"told wrongly: {await ready(server)}")


async def test_it_is_not_ready_while_all_tritons_are_away(kit: Kit, tmp_path: Path, triton: TritonServer) -> None:
    async with on(kit, tmp_path / "data", triton) as server:
        await server.client.register(kit.defect[0].folder, alias="live")
        await until_told(server, there=True)
        triton.kill()
        await until_told(server, there=False)
        async with triton_of(server) as client:
            (listed,) = (await client.get_model_repository_index()).models
        assert f"{triton.url} is away" in listed.reason
        await asyncio.to_thread(triton.start)
        await until_told(server, there=True)
        assert misrouted(kit, [await ask(server, 0)]) == []


async def test_a_request_that_a_frozen_triton_makes_late_is_told_so(
    kit: Kit, tmp_path: Path, triton: TritonServer
) -> None:
    async with on(kit, tmp_path / "data", triton) as server, triton_of(server) as client:
        await server.client.register(kit.defect[0].folder, alias="live")
        await ask(server, 0)
        triton.freeze()
        call = client.infer("defect", shots_of(SHOTS[0]), timeout=1_000_000)
        sentence = await triton_refused(call, "DEADLINE_EXCEEDED")
        triton.thaw()
    assert triton.url in sentence


async def test_another_backbone_is_refused_at_the_start(kit: Kit, tmp_path: Path, triton: TritonServer) -> None:
    other = random_backbone(seed=7)
    with pytest.raises(IncompatibleError, match="lensmount export triton"):
        async with on(replace(kit, weights=written(other, tmp_path)), tmp_path / "data", triton):
            pass


def written(backbone: Any, folder: Path) -> Path:
    save_file(backbone.model.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def test_the_doctor_asks_the_tritons(kit: Kit, tmp_path: Path, triton: TritonServer) -> None:
    config = ServeConfig(
        tmp_path, "127.0.0.1:0", "test_vit", kit.weights, backend=TRITON, triton_urls=(triton.url, "127.0.0.1:9")
    )
    found = {finding.name: finding for finding in examine(config)}
    assert found[f"triton {triton.url}"].detail == "torch in fp32 on cpu"
    assert not found["triton 127.0.0.1:9"].ok
    assert "tritonserver" in found["triton 127.0.0.1:9"].fix
    assert "engine" not in found
