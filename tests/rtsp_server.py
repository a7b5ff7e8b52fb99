"""A real RTSP server with a moving test picture, on loopback.

As a script it is the server, run by the system's Python (`tests/install-rtsp-server`
installs what it needs); imported, it offers `RtspServer`, which starts the script.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import subprocess
from typing import Any, Self

SYSTEM_PYTHON = "/usr/bin/python3"
_IMPORTS = "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')"


class RtspServer:
    """A camera: 320x240, 25 frames a second, H.264. Kill it, stop it, start it again on the same port."""

    def __init__(self, encoder: str = "tune=zerolatency key-int-max=25", login: str = "") -> None:
        self._encoder = encoder
        self._login = login
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/cam"

    def start(self) -> None:
        arguments = [SYSTEM_PYTHON, __file__, str(self.port), self._encoder, "--login", self._login]
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
    arguments = parser.parse_args()
    serve(arguments.port, arguments.encoder, arguments.login)


def serve(port: int, encoder: str, login: str) -> None:
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
    picture = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1"
    factory.set_launch(f"( {picture} ! x264enc {encoder} ! rtph264pay name=pay0 pt=96 )")
    if login:
        _lock(GstRtspServer, server, factory, *login.split(":"))
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


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
