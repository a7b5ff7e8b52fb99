from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
from safetensors.torch import save_file

from factories import pictures, random_backbone
from lensmount import AsyncClient, Residency
from lensmount.errors import InvalidInputError, LensmountError, UnavailableError
from lensmount.status import from_rpc_error
from lensmount.v1 import inference_pb2
from lensmount.v1.inference_pb2_grpc import InferenceServiceStub
from lensmount_server import app
from lensmount_server.app import running
from lensmount_server.config import ServeConfig
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.frames import Frame
from lensmount_server.registry import Places
from lensmount_server.services import push as pushed
from lensmount_server.video.policy import AddressPolicy
from serving import CLOSE, PATIENCE_S, Feed, Kit, config, message, raw_frame, read, serving, stored
from videos import write_clip

SHOT = pictures(1, seed=11)[0]


@pytest.fixture
def settings(kit: Kit, tmp_path: Path) -> ServeConfig:
    return ServeConfig(
        tmp_path / "data", "127.0.0.1:0", "test_vit", kit.weights, EngineSettings("reference", threads=1)
    )


async def refusal(settings: ServeConfig) -> LensmountError:
    with pytest.raises(LensmountError) as caught:
        async with running(settings):
            pytest.fail("it runs")
    error: LensmountError = caught.value
    return error


async def test_it_says_where_it_listens_and_what_it_runs(settings: ServeConfig, kit: Kit) -> None:
    async with running(settings) as (address, backbone), AsyncClient(address) as client:
        host, port = address.split(":")
        assert (host, int(port) > 0) == ("127.0.0.1", True)
        assert backbone.fingerprint == kit.backbone.fingerprint
        assert (await client.info()).backbone.fingerprint == kit.backbone.fingerprint
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), timeout=5)


async def test_sources_come_from_where_it_is_told_only(settings: ServeConfig, kit: Kit, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 3)
    shut = AddressPolicy(folders=(tmp_path / "data",))
    for policy, words in ((shut, "not open to sources"), (AddressPolicy(folders=(tmp_path,)), "")):
        async with running(replace(settings, addresses=policy)) as (address, _), AsyncClient(address) as client:
            await client.register(kit.defect[0].folder, alias="live")
            if words:
                with pytest.raises(InvalidInputError, match=words):
                    await client.add_source("line-1", str(path), "defect")
            else:
                assert (await client.add_source("line-1", str(path), "defect")).name == "line-1"


async def test_it_listens_where_it_is_told_only(settings: ServeConfig) -> None:
    async with running(settings) as (address, _):
        port = int(address.split(":")[1])
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", port), timeout=5)


async def test_a_port_that_is_taken_is_one_clear_error(settings: ServeConfig, tmp_path: Path) -> None:
    async with running(settings) as (address, _):
        second = replace(settings, data_dir=tmp_path / "second", address=address)
        error = await refusal(second)
        assert isinstance(error, UnavailableError)
        assert (error.field, error.value) == ("address", address)
        assert "--address" in error.fix
        async with AsyncClient(address) as client:
            assert await client.info()
        async with running(replace(second, address="127.0.0.1:0")):
            pass


async def test_a_data_directory_that_is_in_use(settings: ServeConfig) -> None:
    async with running(settings):
        error = await refusal(settings)
        assert isinstance(error, UnavailableError)
        assert error.field == "data_dir"
    async with running(settings):
        pass


@pytest.mark.parametrize(
    "address", ["", "localhost", ":50051", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "a:\uff11"]
)
async def test_an_address_that_is_none(settings: ServeConfig, address: str) -> None:
    error = await refusal(replace(settings, address=address))
    assert isinstance(error, InvalidInputError)
    assert (error.field, error.value) == ("address", address)
    assert "HOST:PORT" in error.fix


def test_a_shared_registry_needs_shared_packages(settings: ServeConfig) -> None:
    with pytest.raises(InvalidInputError, match="shared") as caught:
        replace(settings, places=Places("postgresql://lensmount@127.0.0.1/lensmount"))
    assert caught.value.field == "packages"
    assert "--packages" in caught.value.fix


async def test_an_address_of_another_machine(settings: ServeConfig) -> None:
    error = await refusal(replace(settings, address="192.0.2.1:0"))
    assert isinstance(error, UnavailableError)
    assert error.field == "address"


async def test_a_start_that_fails_lets_go_of_the_data_directory(settings: ServeConfig, tmp_path: Path) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    for wrong in (
        replace(settings, backbone="no_such_model", weights=None),
        replace(settings, weights=tmp_path / "nowhere.safetensors"),
        replace(settings, weights=tmp_path / "damaged.safetensors"),
        replace(settings, backbone="test_resnet"),
    ):
        error = await refusal(wrong)
        assert isinstance(error, InvalidInputError)
        assert error.field in ("backbone", "weights")
        assert error.fix
    async with running(settings):
        pass


async def test_an_ipv6_address(settings: ServeConfig) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with running(replace(settings, address="[::1]:0")) as (address, _), AsyncClient(address) as client:
        assert address.startswith("[::1]:")
        assert await client.info()


async def test_versions_and_aliases_are_there_after_a_restart(kit: Kit, tmp_path: Path) -> None:
    async with serving(kit, tmp_path / "data") as server:
        for version in (*kit.defect, kit.surface):
            await server.client.register(version.folder, alias="live")
        await server.client.set_alias("defect", 1, "canary")
        before = [adapter async for adapter in server.client.adapters()]
    async with serving(kit, tmp_path / "data") as server:
        cold = [replace(adapter, residency=Residency.COLD) for adapter in before]
        assert [adapter async for adapter in server.client.adapters()] == cold
        results = await server.client.infer(SHOT, ["defect", "defect@canary", "defect:2", "surface"])
        assert [result.version for result in results] == [3, 1, 2, 1]
        for result, version in zip(results, (kit.defect[2], kit.defect[0], kit.defect[1], kit.surface), strict=True):
            assert [each.score for each in result.scores] == pytest.approx(version.scores(SHOT), abs=CLOSE)


async def test_it_starts_and_serves_the_others_when_a_package_is_damaged(
    kit: Kit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(kit, tmp_path / "data") as server:
        for version in (kit.defect[0], kit.surface):
            await server.client.register(version.folder, alias="live")
    damaged = stored(tmp_path / "data", kit.defect[0].adapter.content_hash) / "adapter_model.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-5] ^= 4
    damaged.write_bytes(data)
    with caplog.at_level(logging.ERROR):
        async with serving(kit, tmp_path / "data") as server:
            assert (await server.client.infer(SHOT, "surface"))[0].version == 1
            for task in ("defect", "defect:1"):
                with pytest.raises(LensmountError):
                    await server.client.infer(SHOT, task)
            again = await server.client.register(kit.defect[0].folder, alias="live")
            assert again.already_registered
            assert (await server.client.infer(SHOT, "defect"))[0].version == 1
    assert "defect:1 is in quarantine" in caplog.text


async def test_another_backbone_does_not_serve_what_it_does_not_fit(kit: Kit, tmp_path: Path) -> None:
    async with serving(kit, tmp_path / "data") as server:
        await server.client.register(kit.surface.folder, alias="live")
    other = tmp_path / "other.safetensors"
    save_file(random_backbone(seed=8).model.state_dict(), other)
    async with serving(replace(kit, weights=other), tmp_path / "data") as server:
        with pytest.raises(LensmountError, match="other weights") as caught:
            await server.client.infer(SHOT, "surface:1")
        assert caught.value.fix


# Stopping.


async def test_an_idle_stream_does_not_hold_the_server_up(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "GRACE_S", 0.3)
    async with contextlib.AsyncExitStack() as after:
        async with serving(kit, tmp_path / "data") as server:
            await server.client.register(kit.defect[0].folder, alias="live")
            channel = await after.enter_async_context(grpc.aio.insecure_channel(server.address))
            stub = InferenceServiceStub(channel)
            call = stub.StreamInfer(Feed(message(config(inference_pb2.CODEC_RAW, "defect")), message(raw_frame(SHOT))))
            await read(call)
            assert (await read(call)).result.frame_index == 0
            start = time.monotonic()
        assert time.monotonic() - start < PATIENCE_S / 2
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)) as caught:
            await asyncio.wait_for(call.read(), PATIENCE_S)
        if isinstance(caught.value, grpc.aio.AioRpcError):
            assert isinstance(from_rpc_error(caught.value), UnavailableError)


async def test_what_is_under_way_is_answered_before_it_stops(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, reached = pushed.raw, asyncio.Event()
    loop = asyncio.get_running_loop()

    def slowly(message: inference_pb2.RawFrame, index: int) -> Frame:
        loop.call_soon_threadsafe(reached.set)
        time.sleep(0.5)
        return decode(message, index)

    async with contextlib.AsyncExitStack() as after:
        async with serving(kit, tmp_path / "data") as server:
            await server.client.register(kit.defect[0].folder, alias="live")
            channel = await after.enter_async_context(grpc.aio.insecure_channel(server.address))
            stub = InferenceServiceStub(channel)
            monkeypatch.setattr(pushed, "raw", slowly)
            feed = Feed(message(config(inference_pb2.CODEC_RAW, "defect")), message(raw_frame(SHOT)), None)
            call = stub.StreamInfer(feed)
            await read(call)
            await reached.wait()
        assert (await read(call)).result.frame_index == 0
        assert (await read(call)).summary.answered == 1
