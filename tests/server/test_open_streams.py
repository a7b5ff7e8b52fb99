"""What an open stream or a running source wants stays in memory, through promotions, and no longer than that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from factories import pictures
from lensmount.errors import TooLargeError
from lensmount.v1 import adapters_pb2, common_pb2, inference_pb2, sources_pb2
from lensmount_server import app
from lensmount_server.catalog import Catalog
from lensmount_server.config import ServeConfig
from lensmount_server.hotset import HotLimits
from serving import Feed, Kit, config, eventually, message, raw_frame, read, refs, refused, serving
from videos import write_clip

RAW = inference_pb2.CODEC_RAW
SHOT = pictures(1)[0]


@pytest.fixture
def catalogs(monkeypatch: pytest.MonkeyPatch) -> list[Catalog]:
    """The catalogs of the servers that are started, which have room for two hot adapters."""
    made: list[Catalog] = []

    class Noted(Catalog):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(app, "Catalog", Noted)
    monkeypatch.setattr(
        "serving.ServeConfig", lambda *given, **named: replace(ServeConfig(*given, **named), hot=HotLimits(2))
    )
    return made


async def test_an_open_stream_pins_what_its_alias_points_at(kit: Kit, tmp_path: Path, catalogs: list[Catalog]) -> None:
    async with serving(kit, tmp_path / "data") as server:
        for version in (kit.defect[0], kit.surface, kit.grade):
            await server.client.register(version.folder, alias="live")
        await server.client.register(kit.defect[1].folder)
        (catalog,) = catalogs
        hot = catalog._mounts.hot
        feed = Feed(message(config(RAW, "defect")))
        call = server.inference.StreamInfer(feed)
        assert (await read(call)).started.adapters[0].version == 1
        assert hot.pinned == {("defect", 1)}
        for task in ("surface", "grade") * 2:
            await server.client.infer(SHOT, task)
        assert kit.defect[0].adapter.content_hash in hot
        assert len(hot) == 2
        await server.adapters.SetAlias(adapters_pb2.SetAliasRequest(task="defect", version=2))
        assert hot.pinned == {("defect", 2)}
        feed.send(message(raw_frame(SHOT)), None)
        assert (await read(call)).result.adapter.version == 2
        assert (await read(call)).summary.answered == 1
        assert await call.code() is grpc.StatusCode.OK
        await eventually(lambda: not hot.pinned, "nothing is pinned after the stream")


async def test_more_streams_than_may_be_hot_are_refused(kit: Kit, tmp_path: Path, catalogs: list[Catalog]) -> None:
    async with serving(kit, tmp_path / "data") as server:
        for version in (kit.defect[0], kit.surface, kit.grade):
            await server.client.register(version.folder, alias="live")
        feed = Feed(message(config(RAW, "defect", "surface")))
        call = server.inference.StreamInfer(feed)
        await read(call)
        error = await refused(server.inference.StreamInfer(Feed(message(config(RAW, "grade")))))
        assert isinstance(error, TooLargeError)
        assert "--hot-adapters" in error.fix
        assert (await server.client.infer(SHOT, "grade"))[0].task == "grade"
        feed.send(None)
        await read(call)
        assert await call.code() is grpc.StatusCode.OK
        assert catalogs[0].residency.state().pinned == 0


async def test_a_source_pins_its_tasks_while_it_runs(kit: Kit, tmp_path: Path, catalogs: list[Catalog]) -> None:
    clip = write_clip(tmp_path / "line.mp4", 20)
    async with serving(kit, tmp_path / "data") as server:
        await server.client.register(kit.defect[0].folder, alias="live")
        every = common_pb2.DROP_POLICY_EVERY_FRAME
        source = sources_pb2.SourceConfig(
            name="line-1", url=str(clip), tasks=refs("defect"), drop_policy=every, loop=True
        )
        await server.sources.AddSource(sources_pb2.AddSourceRequest(source=source))
        hot = catalogs[0]._mounts.hot
        await eventually(lambda: hot.pinned == {("defect", 1)}, "the source pins its task")
        await server.sources.RemoveSource(sources_pb2.RemoveSourceRequest(name="line-1"))
        assert not hot.pinned
