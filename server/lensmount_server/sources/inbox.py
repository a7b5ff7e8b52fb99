"""The frames of one source over all its connections: one feed after another, one account, one count of frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace

from lensmount_server.video.account import Account, AccountState, Drops
from lensmount_server.video.mailbox import Parcel
from lensmount_server.workers.block import Counters
from lensmount_server.workers.messages import Looking
from lensmount_server.workers.remote import RemoteFeed, Wish


class FeedInbox:
    """Gives a stream its frames, from the feed that is there now; waits for the next one between two.

    `wish` says what each frame shall bring along. It belongs to one event loop.
    """

    def __init__(self, wish: Callable[[], Wish]) -> None:
        self._wish = wish
        self._own = _JointAccount(self._feeds_say)
        self._past = AccountState()
        self._skipped = 0
        self._pts_ns = 0
        self._last = Counters()
        self._feed: RemoteFeed | None = None
        self._put_off: tuple[int, ...] = ()
        self._lost = Drops()
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def account(self) -> Account:
        """What became of all frames so far."""
        return self._own

    @property
    def next_index(self) -> int:
        """The number of the next feed's first frame."""
        return self._past.decoded

    @property
    def last_pts_ns(self) -> int:
        """The time of the last frame before the next feed."""
        return self._pts_ns

    def counters(self) -> Counters:
        """Of the feed that is there, or the last one that was; `skipped` is of all."""
        last = self._feed.counters() if self._feed else self._last
        return replace(last, skipped=self._skipped + (last.skipped if self._feed else 0))

    def attach(self, feed: RemoteFeed) -> None:
        """Frames come from this feed now."""
        self._feed = feed
        self._put_off = ()
        self._changed.set()

    def detach(self) -> None:
        """The feed is closed: what it had decoded and nobody got is counted as failed."""
        feed, self._feed = self._feed, None
        if feed is None:
            return
        last = feed.counters()
        stranded = last.account.in_flight - feed.handed
        self._past += last.account
        self._skipped += last.skipped
        self._pts_ns, self._last = max(last.pts_ns, self._pts_ns), last
        self._own.add(dropped=Drops(failed=stranded))
        self._lost += Drops(failed=stranded)

    def look(self, looking: Looking) -> None:
        """Has frames looked at in another way."""
        self._put_off = ()
        if self._feed is not None:
            self._feed.look(looking)

    def open(self) -> None:
        """Feeds will come."""
        self._closed = False

    def end(self) -> None:
        """No feed comes any more: the stream gets what is left of this one, and ends."""
        self._closed = True
        self._changed.set()

    async def get(self) -> Parcel | None:
        """The next frame of any feed; None after `end`."""
        while True:
            feed = self._feed
            if feed is not None and (parcel := await self._next(feed)) is not None:
                return parcel
            if self._closed and (feed is None or feed is self._feed):
                return None
            if feed is self._feed:
                self._changed.clear()
                await self._changed.wait()

    def put_off(self, due: Iterable[int]) -> None:
        """These wants have their turn at the next frame."""
        self._put_off += tuple(due)

    def discard(self) -> None:
        """The stream is gone; what is left is counted when its feed is closed."""

    async def _next(self, feed: RemoteFeed) -> Parcel | None:
        put_off, self._put_off = self._put_off, ()
        parcel = await feed.next(self._wish(), put_off)
        if parcel is None:
            return None
        lost, self._lost = self._lost + parcel.lost, Drops()
        return replace(parcel, lost=lost)

    def _feeds_say(self) -> AccountState:
        return self._past + self._feed.counters().account if self._feed else self._past


class _JointAccount(Account):
    """What the server counts, with what the feeds count."""

    def __init__(self, others: Callable[[], AccountState]) -> None:
        super().__init__()
        self._others = others

    def state(self) -> AccountState:
        """Both together."""
        return super().state() + self._others()
