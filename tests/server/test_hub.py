from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answers import answer_for
from lensmount.errors import InvalidInputError
from lensmount_server.frames import Frame, Still, Want
from lensmount_server.hub import MAX_QUEUE_WITH_FRAMES, Hub, HubItem, Subscription
from lensmount_server.sources.model import SourceSpec, SourceState, SourceStatus
from lensmount_server.streams import Account, Drops, StreamResult, Timings
from opened import pixels_of


def result(index: int, source: str = "a", task: str = "defect", *, frame: Frame | None = None) -> StreamResult:
    timings = Timings(1.0, 1.0, 1.0, 3.0)
    return StreamResult(source, index, 0, 0, answer_for(Want(task)), timings, Drops(), frame)


def status(source: str = "a", state: SourceState = SourceState.LIVE) -> SourceStatus:
    return SourceStatus(SourceSpec(source, "/x.mp4", (Want("defect"),)), state, Account().state())


def read(subscription: Subscription) -> list[HubItem]:
    """What is queued now."""

    async def drain() -> list[HubItem]:
        items = []
        while subscription._results or subscription._states:
            items.append(await anext(subscription))
        return items

    return asyncio.run(drain())


def indices(items: list[HubItem]) -> list[int]:
    return [item.message.frame_index for item in items if isinstance(item.message, StreamResult)]


def check_nothing_unaccounted(items: list[HubItem], published: int, unread_lost: int = 0) -> None:
    """What must hold for a subscriber: every result arrived or was counted before a later one, in order."""
    position = 0
    for item in items:
        assert isinstance(item.message, StreamResult)
        assert item.message.frame_index == position + item.lost
        position = item.message.frame_index + 1
    assert position + unread_lost == published


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=80), st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_a_subscriber_gets_or_is_told_of_every_result(steps: list[int], sizes: list[int]) -> None:
    """Step 0 publishes; step n lets subscriber n read what it has."""
    hub = Hub()
    subscriptions = [hub.subscribe(queue_size=size) for size in sizes]
    opened = [subscription.__enter__() for subscription in subscriptions]
    items: list[list[HubItem]] = [[] for _ in sizes]
    published = 0
    for step in steps:
        if step == 0:
            hub.publish(result(published))
            published += 1
        elif step <= len(sizes):
            items[step - 1] += read(opened[step - 1])
    for each, subscription in zip(items, opened, strict=True):
        check_nothing_unaccounted(each + read(subscription), published)


class SilentSubscription(Subscription):
    """Forgets to count what it throws away."""

    def add_result(self, result: StreamResult, without_frame: StreamResult) -> None:
        super().add_result(result, without_frame)
        self._lost = 0


def test_the_check_notices_a_subscription_that_forgets() -> None:
    hub = Hub()
    subscription = SilentSubscription((), (), 3, with_frames=False)
    hub._subscriptions.add(subscription)
    for index in range(10):
        hub.publish(result(index))
    with pytest.raises(AssertionError):
        check_nothing_unaccounted(read(subscription), 10)


def test_a_slow_subscriber_loses_its_own_oldest_and_slows_nobody() -> None:
    hub = Hub()
    with hub.subscribe(queue_size=4) as slow, hub.subscribe(queue_size=100) as fast:
        for index in range(10):
            hub.publish(result(index))
        items = read(slow)
        assert indices(items) == [6, 7, 8, 9]
        assert [item.lost for item in items] == [6, 0, 0, 0]
        assert indices(read(fast)) == list(range(10))


def test_filters_by_source_and_task() -> None:
    hub = Hub()
    with (
        hub.subscribe() as everything,
        hub.subscribe(["a"]) as one,
        hub.subscribe((), ["surface"]) as task,
        hub.subscribe(["a", "b"], ["defect"]) as both,
    ):
        for index, (source, name) in enumerate([("a", "defect"), ("a", "surface"), ("b", "defect"), ("c", "surface")]):
            hub.publish(result(index, source, name))
        found = [indices(read(each)) for each in (everything, one, task, both)]
    assert found == [[0, 1, 2, 3], [0, 1], [1, 3], [0, 2]]


def test_state_changes_keep_their_place_and_survive_a_flood() -> None:
    hub = Hub()
    with hub.subscribe(queue_size=3) as subscription:
        hub.announce(status(state=SourceState.FAILED))
        for index in range(50):
            hub.publish(result(index))
        hub.announce(status(state=SourceState.ENDED))
        messages = [item.message for item in read(subscription)]
    assert [message.state.name for message in messages if isinstance(message, SourceStatus)] == ["FAILED", "ENDED"]
    assert isinstance(messages[0], SourceStatus)
    assert isinstance(messages[-1], SourceStatus)
    assert len(messages) == 5


def test_state_changes_pass_the_source_filter_only() -> None:
    hub = Hub()
    with hub.subscribe(["a"], ["surface"]) as subscription:
        hub.announce(status("a"))
        hub.announce(status("b"))
        assert [item.message for item in read(subscription)] == [status("a")]


def test_pictures_go_only_to_those_who_ask_and_few_at_a_time() -> None:
    hub = Hub()
    with hub.subscribe(with_frames=True) as curious, hub.subscribe() as plain:
        for index in range(40):
            hub.publish(result(index, frame=Frame(Still(np.zeros((1, 1, 3), np.uint8)), index)))
        pictures = [item.message for item in read(curious)]
        assert len(pictures) == MAX_QUEUE_WITH_FRAMES
        assert all(isinstance(message, StreamResult) and message.frame is not None for message in pictures)
        items = read(plain)
        assert len(items) == 40
        assert all(isinstance(item.message, StreamResult) and item.message.frame is None for item in items)


def test_a_queue_without_pictures_holds_no_pixels() -> None:
    hub = Hub()
    with hub.subscribe():
        frame = Frame(Still(np.zeros((1, 1, 3), np.uint8)))
        watched = weakref.ref(pixels_of(frame.picture))
        hub.publish(result(0, frame=frame))
        del frame
        gc.collect()
        assert watched() is None


async def test_a_waiting_subscriber_wakes() -> None:
    hub = Hub()
    with hub.subscribe() as subscription:
        waiting = asyncio.create_task(anext(subscription))
        await asyncio.sleep(0)
        hub.publish(result(1))
        assert indices([await asyncio.wait_for(waiting, 30)]) == [1]


async def test_a_subscription_to_one_source_ends_with_it() -> None:
    hub = Hub()
    with hub.subscribe(["a", "b"]) as two, hub.subscribe() as everything:
        hub.publish(result(0))
        hub.forget("a")
        hub.publish(result(1))  # no longer asked for
        assert not two.closed
        hub.forget("b")
        assert indices([item async for item in two]) == [0]
        assert not everything.closed


async def test_closing_the_hub_ends_everybody_who_waits() -> None:
    hub = Hub()
    with hub.subscribe() as subscription:

        async def drain() -> list[HubItem]:
            return [item async for item in subscription]

        waiting = asyncio.create_task(drain())
        await asyncio.sleep(0)
        hub.close()
        assert await asyncio.wait_for(waiting, 30) == []


def test_leaving_unsubscribes() -> None:
    hub = Hub()
    with hub.subscribe() as subscription:
        pass
    hub.publish(result(0))
    assert read(subscription) == []


@pytest.mark.parametrize("size", [0, -1, 10_001])
def test_a_queue_must_have_a_sensible_size(size: int) -> None:
    with pytest.raises(InvalidInputError) as caught, Hub().subscribe(queue_size=size):
        pass
    assert caught.value.field == "queue_size"


def test_a_shown_address_has_no_password() -> None:
    spec = replace(status().spec, url="rtsp://me:secret@camera/x")
    assert spec.shown_url == "rtsp://me:***@camera/x"
    assert "secret" not in repr(spec)
