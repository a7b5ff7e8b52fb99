"""What a feed decodes: a video that is opened here, or packets that a client pushes."""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator

from lensmount_server.frames import Frame
from lensmount_server.video.decoder import PacketDecoder
from lensmount_server.video.limits import PictureLimits
from lensmount_server.workers.messages import Packet, Pushing

Pushed = tuple[Packet, bytes]


class PushReader:
    """Decodes the packets that are pushed; each frame comes out before its packet counts as taken.

    `took` is called when the frames of a packet were all taken, `busy` with True when FFmpeg is given something and
    with False when it has come back.
    """

    def __init__(self, pushing: Pushing, took: Callable[[], None], busy: Callable[[bool], None]) -> None:
        self._decoder = PacketDecoder(pushing.codec, pushing.extradata, PictureLimits())
        self._packets: queue.SimpleQueue[Pushed | None] = queue.SimpleQueue()
        self._took = took
        self._busy = busy
        self.codec = pushing.codec
        self.skipped = 0

    @property
    def broken(self) -> int:
        """Packets so far that could not be decoded."""
        return self._decoder.broken

    def push(self, packet: Packet, data: bytes) -> None:
        """The next packet; without data: there are no more."""
        self._packets.put((packet, data))

    def stop(self) -> None:
        """Makes `frames` return, whatever was pushed."""
        self._packets.put(None)

    def want(self, max_fps: float) -> None:
        """Nothing: a client decides itself what it sends."""

    def frames(self) -> Generator[Frame]:
        """Frames until the last packet was decoded. Raises as PacketDecoder does."""
        while (pushed := self._packets.get()) is not None:
            packet, data = pushed
            yield from self._decoded(packet, data)
            if packet.last:
                return
            self._took()

    def _decoded(self, packet: Packet, data: bytes) -> list[Frame]:
        self._busy(True)
        if packet.last:
            frames = self._decoder.flush()
        else:
            frames = self._decoder.decode(data, packet.pts_ns, packet.dts_ns, packet.capture_time_ns)
        self._busy(False)
        return frames
