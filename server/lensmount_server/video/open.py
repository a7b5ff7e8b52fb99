"""The right reader for an address."""

from __future__ import annotations

from lensmount_server.video import plugins
from lensmount_server.video.address import Address
from lensmount_server.video.folder import FolderReader
from lensmount_server.video.limits import ReaderOptions
from lensmount_server.video.policy import EXAMPLES
from lensmount_server.video.reader import Reader, VideoReader
from lensmount_server.video.settings import Effort, Pace
from lensmount_server.video.timeline import Timeline
from lensmount_server.video.usb import UsbReader


def open_reader(
    address: Address,
    *,
    loop: bool = False,
    pace: Pace = Pace.REALTIME,
    effort: Effort = Effort.AUTO,
    options: ReaderOptions | None = None,
    timeline: Timeline | None = None,
) -> Reader:
    """A reader that has not opened anything yet; its `frames` does.

    `loop` and `pace` are for recordings alone, `effort` is for what FFmpeg decodes.

    Raises IncompatibleError for a plugin that is not there any more.
    """
    options, timeline = options or ReaderOptions(), timeline or Timeline()
    if address.scheme == "folder":
        return FolderReader(address, loop=loop, pace=pace, options=options, timeline=timeline)
    if address.scheme == "usb":
        return UsbReader(address, options=options, timeline=timeline)
    if address.scheme in EXAMPLES:
        return VideoReader(address, loop=loop, pace=pace, options=options, timeline=timeline, effort=effort)
    return plugins.PluginReader(
        plugins.load(address.scheme),
        address.url,
        address.shown,
        limits=options.limits,
        timeline=timeline,
        paced=pace is Pace.REALTIME,
        loop=loop,
    )
