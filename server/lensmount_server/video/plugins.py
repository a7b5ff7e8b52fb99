"""Readers that other distributions bring: entry points of the group `lensmount.sources`.

The entry point's name is the scheme of the addresses; its object opens them:

    def open_ball(url: str, stop: threading.Event) -> Iterator[PluginPicture]: ...
    open_ball.live = True  # its end is a failure, and it is opened again

An entry point is imported by the server when the first such address comes, to learn `live`; it is called
where the video is read. Whoever installs one trusts it: nothing here limits what it reaches.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from threading import Event
from typing import Any, Protocol

import numpy as np

from lensmount.errors import IncompatibleError, InvalidInputError, LensmountError
from lensmount_adapters.pictures import Pixels
from lensmount_server.frames import Frame, Still
from lensmount_server.video.errors import BrokenStreamError
from lensmount_server.video.limits import PictureLimits
from lensmount_server.video.timeline import Pacer, Timeline

logger = logging.getLogger(__name__)

GROUP = "lensmount.sources"
_STEP_NS = 40_000_000


@dataclass(frozen=True, eq=False)
class PluginPicture:
    """A picture of a plugin: uint8 RGB (height, width, 3), which the plugin does not write again.

    `pts_ns`: nanoseconds on the stream's own clock; None: it has none. `capture_time_ns`: Unix time; None: now.
    """

    pixels: Pixels
    pts_ns: int | None = None
    capture_time_ns: int | None = None


class SourcePlugin(Protocol):
    """What an entry point gives. `live`: it never ends by itself; when it does all the same, it is opened again."""

    live: bool

    def __call__(self, url: str, stop: Event) -> Iterator[PluginPicture]:
        """Pictures until the end, or soon after `stop` is set. Whatever it raises ends the source, with its words."""
        ...


def installed() -> dict[str, EntryPoint]:
    """The installed plugins by scheme."""
    return {each.name.lower(): each for each in entry_points(group=GROUP)}


def load(scheme: str) -> SourcePlugin:
    """The plugin for a scheme. Raises IncompatibleError for one that can not be imported or is none."""
    try:
        plugin: Any = installed()[scheme].load()
    except Exception as error:  # a stranger's code may raise anything
        logger.exception("the plugin for %s: addresses can not be loaded", scheme)
        raise _unfit(scheme, f"can not be loaded: {type(error).__name__}: {error}") from error
    if not callable(plugin) or not isinstance(getattr(plugin, "live", None), bool):
        raise _unfit(scheme, "is not a function with an attribute `live` that is True or False")
    ready: SourcePlugin = plugin
    return ready


class PluginReader:
    """Reads one address through a plugin."""

    skipped = 0
    broken = 0
    codec = ""

    def __init__(
        self,
        plugin: SourcePlugin,
        url: str,
        shown: str,
        *,
        limits: PictureLimits | None = None,
        timeline: Timeline | None = None,
        paced: bool = False,
        loop: bool = False,
    ) -> None:
        self._plugin = plugin
        self._url = url
        self._shown = shown
        self._limits = limits or PictureLimits()
        self._timeline = timeline or Timeline()
        self._loop = loop and not plugin.live
        self._stop = Event()
        self._pacer = Pacer(self._stop) if paced and not plugin.live else None

    def want(self, max_fps: float) -> None:
        """Nothing: each picture stands alone, and one that nobody asks for costs next to nothing."""

    def stop(self) -> None:
        """Asks the plugin to end."""
        self._stop.set()

    def frames(self) -> Generator[Frame]:
        """Frames until the plugin ends. Raises BrokenStreamError, or InvalidInputError for what is no picture."""
        while not self._stop.is_set():
            before = self._timeline.frames
            self._timeline.begin(_STEP_NS)
            with closing(self._pictures()) as pictures:
                for picture in pictures:
                    if self._stop.is_set():
                        return
                    yield self._frame(picture)
            if self._stop.is_set():
                return
            if self._plugin.live:
                raise self._broken("the plugin ended the stream")
            if not self._loop or self._timeline.frames == before:
                return

    def _pictures(self) -> Generator[object]:
        try:
            yield from self._plugin(self._url, self._stop)
        except LensmountError:
            raise
        except Exception as error:  # a stranger's code may raise anything
            logger.exception("the plugin for %s failed", self._shown)
            raise self._broken(f"the plugin failed: {type(error).__name__}: {error}") from error

    def _frame(self, picture: object) -> Frame:
        if not isinstance(picture, PluginPicture):
            raise self._wrong(f"a {type(picture).__name__}", "yield PluginPicture(pixels)")
        pixels: object = picture.pixels
        if not isinstance(pixels, np.ndarray):
            raise self._wrong(f"a {type(pixels).__name__}", "yield a numpy array")
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise self._wrong(f"{pixels.dtype} {pixels.shape}", "yield uint8 RGB of shape (height, width, 3)")
        self._limits.check(pixels.shape[1], pixels.shape[0])
        index, pts_ns = self._timeline.place(picture.pts_ns)
        if self._pacer is not None:
            self._pacer.wait(pts_ns)
        still = Still(np.ascontiguousarray(pixels))
        return Frame(still, index, pts_ns, picture.capture_time_ns or time.time_ns())

    def _broken(self, why: str) -> BrokenStreamError:
        return BrokenStreamError(why, field="url", value=self._shown, fix="look into the plugin and the server's log")

    def _wrong(self, came: str, fix: str) -> InvalidInputError:
        return InvalidInputError("the plugin gave no picture", field=f"plugin for {self._shown}", value=came, fix=fix)


def _unfit(scheme: str, why: str) -> IncompatibleError:
    fix = f"mend or uninstall the distribution that brings the entry point {GROUP}: {scheme}"
    return IncompatibleError(f"the plugin {why}", field="url", value=f"{scheme}:", fix=fix)
