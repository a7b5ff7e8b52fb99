"""Both clients against a real server: every method, and errors that arrive as the classes they are."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

import lensmount
from factories import pictures
from lensmount import Client, Result, Source, SourceState
from lensmount_adapters.pictures import Pixels
from serving import CLOSE, PATIENCE_S, Kit, Served
from videos import write_clip

SHOTS = pictures(8, seed=31)


def jpeg(pixels: Pixels) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=95)
    return data.getvalue()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "line.mp4", 30)


def scores(result: Result) -> tuple[float, ...]:
    return tuple(each.score for each in result.scores)


async def in_thread(server: Served, use: Callable[[Client], None]) -> None:
    """Use a blocking client beside the server's event loop."""

    def call() -> None:
        with Client(server.address, timeout=PATIENCE_S) as client:
            use(client)

    await asyncio.to_thread(call)


async def test_the_blocking_client_from_registration_to_a_swap(server: Served, kit: Kit, clip: Path) -> None:
    def use(client: Client) -> None:
        assert client.wait_ready(PATIENCE_S).backbone.name == "test_vit"
        first = client.register(kit.defect[0].folder, alias="live")
        assert (first.adapter.version, first.adapter.aliases, first.already_registered) == (1, ("live",), False)
        client.register(kit.defect[1].folder)
        client.register(kit.surface.folder, alias="live")
        assert [adapter.version for adapter in client.adapters("defect")] == [2, 1]
        (picture,) = client.infer(SHOTS[0], "defect")
        assert scores(picture) == pytest.approx(kit.defect[0].scores(SHOTS[0]), abs=CLOSE)
        seen = [(result.frame_index, result.task) for result in client.stream(clip, ["defect", "surface"])]
        assert seen == [(index, task) for index in range(30) for task in ("defect", "surface")]
        change = client.set_alias("defect", 2, expected_version=1)
        assert (change.previous_version, change.version) == (1, 2)
        assert client.adapter("defect").content_hash == kit.defect[1].adapter.content_hash
        with client.stream(iter(SHOTS), "defect") as stream:
            versions = {result.version for result in stream}
        assert versions == {2}
        assert stream.summary
        assert (stream.summary.decoded, stream.summary.answered) == (8, 8)
        assert client.info().engine.frames > 30

    await in_thread(server, use)


async def test_a_swap_in_the_middle_of_a_blocking_stream(live: Served, kit: Kit) -> None:
    def use(client: Client) -> None:
        client.register(kit.defect[1].folder)

        def frames() -> Iterator[Pixels]:
            for number in range(60):
                if number == 30:
                    client.set_alias("defect", 2)
                yield SHOTS[number % len(SHOTS)]

        results = list(client.stream(frames(), "defect"))
        assert [result.frame_index for result in results] == list(range(60))
        assert [result.version for result in results] == sorted(result.version for result in results)
        assert {result.version for result in results} == {1, 2}
        assert all(result.version == 2 for result in results[30:])
        for result in results:
            oracle = kit.defect[result.version - 1]
            assert scores(result) == pytest.approx(oracle.scores(SHOTS[result.frame_index % len(SHOTS)]), abs=CLOSE)

    await in_thread(live, use)


async def test_errors_arrive_as_what_they_are(live: Served, tmp_path: Path) -> None:
    def use(client: Client) -> None:
        with pytest.raises(lensmount.NotFoundError) as unknown:
            client.infer(SHOTS[0], "weather")
        assert (unknown.value.field, unknown.value.value) == ("tasks", "weather")
        assert unknown.value.fix
        with pytest.raises(lensmount.InvalidInputError) as damaged:
            list(client.stream([jpeg(SHOTS[0]), b"no picture"], "defect"))
        assert damaged.value.field == "encoded.data"
        with pytest.raises(lensmount.ConflictError):
            client.set_alias("defect", 1, expected_version=7)
        with pytest.raises(lensmount.NotFoundError, match="no earlier version"):
            client.rollback("defect")
        with pytest.raises(lensmount.NotFoundError):
            client.source("nowhere")
        with pytest.raises(lensmount.TooLargeError):
            client.infer(bytes(40 << 20), "defect")

    await in_thread(live, use)


async def test_the_asynchronous_client(live: Served, kit: Kit, clip: Path) -> None:
    client = live.client
    found = [adapter async for adapter in client.adapters()]
    assert [adapter.task for adapter in found] == ["grade", "surface", "defect"]
    (grade, defect) = await client.infer(jpeg(SHOTS[1]), ["grade", "defect"])
    assert (grade.task, defect.task) == ("grade", "defect")
    indices = [result.frame_index async for result in client.stream(clip, "defect", with_jpeg=True)]
    assert indices == list(range(30))
    with pytest.raises(lensmount.NotFoundError):
        await client.infer(SHOTS[0], "defect:7")
    with pytest.raises(lensmount.NotFoundError):
        async for _ in client.stream(iter(SHOTS), "weather"):
            pass


async def test_sources_with_the_asynchronous_client(live: Served, clip: Path) -> None:
    client = live.client
    await client.add_source("line-1", str(clip), "defect", loop=True, drop_policy="every_frame")
    results: list[Result] = []
    async with client.watch(["line-1"]) as watch:
        async for item in watch:
            if isinstance(item, Source):
                continue
            results.append(item)
            if len(results) == 20:
                break
    indices = [result.frame_index for result in results]
    assert indices == sorted(set(indices))
    assert [source.name for source in await client.sources()] == ["line-1"]
    assert (await client.source("line-1")).state is SourceState.LIVE
    await client.remove_source("line-1")
    assert await client.sources() == []


async def test_sources_with_the_blocking_client(live: Served, clip: Path) -> None:
    def use(client: Client) -> None:
        client.add_source("line-1", str(clip), ["defect", "surface"], loop=True)
        with client.watch(tasks=["surface"]) as watch:
            found = [item for item, _ in zip(watch, range(12), strict=False)]
        assert {item.task for item in found if isinstance(item, Result)} == {"surface"}
        client.remove_source("line-1")
        with pytest.raises(lensmount.NotFoundError):
            client.remove_source("line-1")

    await in_thread(live, use)
