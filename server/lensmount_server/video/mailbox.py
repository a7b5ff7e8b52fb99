"""Where frames wait between the thread that decodes them and whoever has them answered: a coroutine or a thread.

Every frame that is put comes out once, is superseded once, or is discarded once,
and the stream's account is told at that very moment.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum, auto

from lensmount_server.frames import Frame
from lensmount_server.video.account import Account, Drops


class DropPolicy(StrEnum):
    """What to do with frames that come faster than they are answered."""

    EVERY_FRAME = auto()
    NEWEST = auto()


@dataclass(frozen=True, eq=False)
class Parcel:
    """A frame, and what was lost between it and the parcel before.

    Where that was decided on the way here: `due`, the positions of the wants whose turn it is, and `still`, whether it
    shows what the last frame showed that was looked at.
    """

    frame: Frame
    lost: Drops
    due: tuple[int, ...] | None = None
    still: bool = False


class Mailbox:
    """Takes frames from any thread or coroutine, gives them to one coroutine or one thread, in order.

    NEWEST: when `size` frames wait, a new one replaces the oldest, which is counted
    `superseded`. EVERY_FRAME: the producer waits for room, until `close`.
    """

    def __init__(self, policy: DropPolicy, size: int = 1, account: Account | None = None) -> None:
        self.account = account or Account()
        self._policy = policy
        self._size = size
        self._frames: deque[Frame] = deque()
        self._lost = Drops()
        self._closed = False
        self._room = threading.Condition()
        self._arrived = _Bell()
        self._room_made = _Bell()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: Frame) -> bool:
        """Delivers from a thread; False when the mailbox is closed: the frame was not taken."""
        with self._room:
            while not self._closed and self._is_full():
                self._room.wait()
            return self._accept(frame)

    async def offer(self, frame: Frame) -> bool:
        """Delivers from a coroutine (one at a time); False when the mailbox is closed."""
        while True:
            with self._room:
                if self._closed or not self._is_full():
                    return self._accept(frame)
                room = self._room_made.listen()
            await room

    def lose(self, lost: Drops) -> None:
        """Notes packets that never became a frame; the next parcel tells of them."""
        with self._room:
            self._lost += lost
            self.account.add(dropped=lost)

    async def get(self) -> Parcel | None:
        """The oldest waiting frame, as soon as there is one; None when the mailbox is closed and empty."""
        while True:
            with self._room:
                if self._frames:
                    return self._take()
                if self._closed:
                    return None
                arrival = self._arrived.listen()
            await arrival

    def take(self) -> Parcel | None:
        """As `get`, for a thread."""
        with self._room:
            while not (self._frames or self._closed):
                self._room.wait()
            return self._take() if self._frames else None

    def put_off(self, due: Iterable[int]) -> None:
        """Nothing: whose turn it is, is decided by the stream that gets the frames."""

    def close(self) -> None:
        """Takes no more frames; those that wait can still be got."""
        with self._room:
            self._closed = True
            self._wake_all()

    def discard(self) -> None:
        """Closes, and counts the frames that wait as failed."""
        with self._room:
            self._closed = True
            self.account.add(dropped=Drops(failed=len(self._frames)))
            self._frames.clear()
            self._wake_all()

    def _is_full(self) -> bool:
        return self._policy is DropPolicy.EVERY_FRAME and len(self._frames) >= self._size

    def _accept(self, frame: Frame) -> bool:
        if self._closed:
            return False
        superseded = Drops(superseded=int(len(self._frames) >= self._size))
        if superseded:
            self._frames.popleft()
            self._lost += superseded
        self._frames.append(frame)
        self.account.add(decoded=1, dropped=superseded)
        self._room.notify_all()
        self._arrived.ring()
        return True

    def _take(self) -> Parcel:
        parcel = Parcel(self._frames.popleft(), self._lost)
        self._lost = Drops()
        self._room.notify_all()
        self._room_made.ring()
        return parcel

    def _wake_all(self) -> None:
        self._room.notify_all()
        self._arrived.ring()
        self._room_made.ring()


class _Bell:
    """Wakes one coroutine from any thread. Its owner holds a lock around both calls."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    def listen(self) -> asyncio.Future[None]:
        """A future that the next ring completes."""
        self._future = asyncio.get_running_loop().create_future()
        return self._future

    def ring(self) -> None:
        """Completes the future of whoever listens."""
        future, self._future = self._future, None
        if future is not None:
            future.get_loop().call_soon_threadsafe(_complete, future)


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
