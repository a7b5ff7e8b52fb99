"""Who asks for pictures gets results from the first frame on that was asked for them, and each with its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from answers import Echo
from lensmount.v1 import sources_pb2
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import Frame, Want
from lensmount_server.hub import Hub
from lensmount_server.results import StreamResult
from lensmount_server.scheduling import Terms
from lensmount_server.services.sources import SourceService
from lensmount_server.video.account import Drops
from lensmount_server.workers.remote import HandedPicture


async def never(_: Preprocessing) -> torch.Tensor:
    raise AssertionError("nobody asks for it")


async def result(index: int, encoded: bytes | None) -> StreamResult:
    frame = Frame(HandedPicture(240, 320, {}, encoded, never), index)
    (answer,) = await Echo().answer(frame, [Want("defect")], Terms("line-1"))
    return StreamResult.of("line-1", frame, answer, Drops(), reused=False)


async def watched(results: list[StreamResult], *, with_jpeg: bool, queue_size: int = 0) -> list[Any]:
    """What a watcher gets of these results, which are there before it reads the first of them."""
    hub, request = Hub(), sources_pb2.WatchResultsRequest(with_jpeg=with_jpeg, queue_size=queue_size)
    nobody: Any = None  # neither is asked
    service: Any = SourceService(nobody, nobody, hub)
    watching = service.WatchResults(request, None)
    first = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)
    for each in results:
        hub.publish(each)
    hub.close()
    return [await first, *[item async for item in watching]]


@pytest.mark.parametrize("before", [[], [None], [b"of another watcher"], [b"of another watcher", None]])
async def test_frames_that_were_under_way_are_left_out(before: list[bytes | None]) -> None:
    encoded = [*before, b"a", b"b", b"c"]
    items = await watched([await result(*each) for each in enumerate(encoded)], with_jpeg=True)
    assert [item.result.jpeg for item in items] == [each for each in encoded if each is not None]
    assert [item.result.frame_index for item in items] == [n for n, each in enumerate(encoded) if each is not None]


async def test_a_picture_that_could_not_be_had_is_not_one_that_nobody_asked_for() -> None:
    items = await watched([await result(0, b"a"), await result(1, b""), await result(2, b"c")], with_jpeg=True)
    assert [item.result.jpeg for item in items] == [b"a", b"", b"c"]


async def test_who_wants_no_pictures_gets_all_results() -> None:
    items = await watched([await result(0, None), await result(1, b"b")], with_jpeg=False)
    assert [(item.result.frame_index, item.result.jpeg) for item in items] == [(0, b""), (1, b"")]


async def test_what_was_lost_before_the_first_one_is_told_with_it() -> None:
    results = [await result(index, None if index < 5 else b"x") for index in range(6)]
    items = await watched(results, with_jpeg=True, queue_size=2)
    assert [(item.result.frame_index, item.lost) for item in items] == [(5, 4)]
