"""A real RTSP server with a moving test picture, on loopback.

As a script it is the server, run by the system's Python (`tests/install-rtsp-server`
installs what it needs); imported, it offers `RtspServer`, which starts the script. With a `Shape` that has a clock its
picture is the time at which it was drawn, which `drawn_at_s` reads.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

SYSTEM_PYTHON = "/usr/bin/python3"
_IMPORTS = "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')"


# The clock's picture: so many bars from left to right, dark or light, the lowest bit of the time first.
BITS = 32
UNIT_NS = 100_000
DARK, LIGHT = 40, 220


@dataclass(frozen=True)
class Shape:
    """Pixels, frames a second, and whether the picture is a clock or a ball that moves."""

    width: int = 320
    height: int = 240
    fps: int = 25
    clock: bool = False

    def __str__(self) -> str:
        return f"{self.width},{self.height},{self.fps},{int(self.clock)}"

    @classmethod
    def parse(cls, words: str) -> Shape:
        width, height, fps, clock = map(int, words.split(","))
        return cls(width, height, fps, bool(clock))


class RtspServer:
    """A camera: H.264, 320x240 at 25 frames a second. Kill it, stop it, start it again on the same port."""

    def __init__(
        self, encoder: str = "tune=zerolatency key-int-max=25", login: str = "", shape: Shape | None = None
    ) -> None:
        self._encoder = encoder
        self._login = login
        self._shape = shape or Shape()
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/cam"

    def start(self) -> None:
        arguments = [SYSTEM_PYTHON, __file__, str(self.port), self._encoder, "--login", self._login]
        arguments += ["--shape", str(self._shape)]
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the RTSP server did not start"
        self.port = int(line)

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        with self._process:
            self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@functools.cache
def rtsp_is_here() -> bool:
    if not os.access(SYSTEM_PYTHON, os.X_OK):
        return False
    return subprocess.run([SYSTEM_PYTHON, "-c", _IMPORTS], capture_output=True, check=False).returncode == 0


def needs_rtsp() -> None:
    """Skips the test where there is no RTSP server."""
    import pytest  # noqa: PLC0415  # the system's Python, which runs this file too, has none

    if not rtsp_is_here():
        pytest.skip("no RTSP server here: run tests/install-rtsp-server as root")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, help="0 takes a free one")
    parser.add_argument("encoder", help="properties of x264enc")
    parser.add_argument("--login", default="", help="name:password that clients must give")
    parser.add_argument("--shape", type=Shape.parse, default=Shape(), help="width,height,fps,clock")
    arguments = parser.parse_args()
    serve(arguments.port, arguments.encoder, arguments.login, arguments.shape)


def serve(port: int, encoder: str, login: str, shape: Shape) -> None:
    import gi  # type: ignore[import-not-found]  # noqa: PLC0415  # only the system's Python has it

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer  # type: ignore[import-not-found]  # noqa: PLC0415

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(port))
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_shared(True)
    size = f"video/x-raw,format=I420,width={shape.width},height={shape.height},framerate={shape.fps}/1"
    picture = f"videotestsrc is-live=true pattern=ball ! {size}"
    if shape.clock:
        picture = f"appsrc name=clock is-live=true do-timestamp=true format=time caps={size}"
        factory.connect("media-configure", lambda _, media: _draw_clock(Gst, media, shape))
    factory.set_launch(f"( {picture} ! x264enc {encoder} ! rtph264pay name=pay0 pt=96 )")
    if login:
        _lock(GstRtspServer, server, factory, *login.split(":"))
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


def _draw_clock(library: Any, media: Any, shape: Shape) -> None:
    source = media.get_element().get_by_name("clock")
    threading.Thread(target=_draw_until_refused, args=(library, source, shape), daemon=True).start()


def _draw_until_refused(library: Any, source: Any, shape: Shape) -> None:
    colour = bytes([128]) * (shape.width * shape.height // 2)
    due = time.monotonic()
    while True:
        picture = clock_row(time.time_ns(), shape.width) * shape.height + colour
        if source.emit("push-buffer", library.Buffer.new_wrapped(picture)) != library.FlowReturn.OK:
            return
        due += 1 / shape.fps
        time.sleep(max(due - time.monotonic(), 0))


def clock_row(time_ns: int, width: int) -> bytes:
    """One line of the clock's picture: brightness, a byte a pixel."""
    units, bar = time_ns // UNIT_NS, width // BITS
    row = b"".join(bytes([LIGHT if units >> bit & 1 else DARK]) * bar for bit in range(BITS))
    return row.ljust(width, bytes([DARK]))


def drawn_at_s(row: Sequence[int], now_s: float) -> float:
    """When a decoded line of the clock's picture was drawn, in seconds of Unix time; `now_s` is not long after that."""
    bar = len(row) // BITS
    said = sum(1 << bit for bit in range(BITS) if row[bit * bar + bar // 2] > (DARK + LIGHT) // 2)
    now = int(now_s * 1e9) // UNIT_NS
    return (now - (now - said) % (1 << BITS)) * UNIT_NS / 1e9


def _lock(library: Any, server: Any, factory: Any, name: str, password: str) -> None:
    auth, token, permissions = library.RTSPAuth(), library.RTSPToken(), library.RTSPPermissions()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(library.RTSPAuth.make_basic(name, password), token)
    for permission in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("viewer", permission, True)
    factory.set_permissions(permissions)
    server.set_auth(auth)


if __name__ == "__main__":
    main()
