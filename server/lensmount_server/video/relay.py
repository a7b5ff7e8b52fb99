"""A way for FFmpeg to an RTSP camera that leads to this camera only.

An RTSP server may answer with a redirect (RFC 2326, 10.11 and 11.3), and FFmpeg follows it to any host without
asking. So the connection is made here, to an address that was just checked, and FFmpeg reaches it through a port on
loopback that takes one connection. Until FFmpeg says PLAY, after which it follows none, the answers pass
line by line, and one that redirects ends the connection. A camera sees what it sees behind a forwarded port.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import ssl
import threading

_BLOCK = 1 << 16
# What FFmpeg reads as a redirect; interleaved data before PLAY would hide one. FFmpeg leaves out \r wherever it stands.
_REDIRECT = re.compile(rb"location:|rtsp/\S*\s+3|\$", re.IGNORECASE)
_LONGEST = 64


class Relay:
    """Passes bytes between one client on loopback and `camera`, which it closes at the end.

    `port` is where the client connects; `redirected` is whether the camera tried to send it elsewhere.
    """

    def __init__(self, camera: socket.socket) -> None:
        self._camera = camera
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1)
        self.port: int = self._listener.getsockname()[1]
        self.redirected = False
        self._lines: LineFilter | None = LineFilter()
        self._ended, self._end = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="rtsp-relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends both connections."""
        self._end.close()
        with contextlib.suppress(OSError):  # a camera that takes nothing any more must not hold the thread
            socket.socket.shutdown(self._camera, socket.SHUT_RDWR)  # around TLS, which the thread may be using
        self._thread.join()

    def _run(self) -> None:
        with self._camera, self._ended, contextlib.suppress(OSError):
            client = self._accept()
            if client is not None:
                with client:
                    self._pass(client)

    def _accept(self) -> socket.socket | None:
        with self._listener, selectors.DefaultSelector() as waiting:
            for each in (self._listener, self._ended):
                waiting.register(each, selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in waiting.select()]
            return None if self._ended in ready else self._listener.accept()[0]

    def _pass(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BLOCK)  # what waits here only grows old
        with selectors.DefaultSelector() as waiting:
            for each in (client, self._camera, self._ended):
                waiting.register(each, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in waiting.select()]
                if self._ended in ready:
                    return
                if client in ready and not self._upwards(client):
                    return
                if self._camera in ready and not self._downwards(client):
                    return

    def _upwards(self, client: socket.socket) -> bool:
        data = client.recv(_BLOCK)
        if self._lines is not None and data.startswith(b"PLAY "):
            client.sendall(self._lines.rest())
            self._lines = None
        self._camera.sendall(data)
        return bool(data)

    def _downwards(self, client: socket.socket) -> bool:
        data = _receive(self._camera)
        if not data:
            return data is None
        if self._lines is not None:
            passed = self._lines.feed(data)
            if passed is None:
                self.redirected = True
                return False
            data = passed
        client.sendall(data)
        return True


class LineFilter:
    """Lets lines through, as soon as their beginnings are harmless."""

    def __init__(self) -> None:
        self._held = b""
        self._inside = False

    def feed(self, data: bytes) -> bytes | None:
        """What may pass now; None as soon as a line redirects."""
        passed = b""
        for piece in _lines(self._held + data):
            beginning = piece.replace(b"\r", b"")
            if not self._inside and _REDIRECT.match(beginning):
                return None
            whole = piece.endswith(b"\n")
            if not whole and not self._inside and len(beginning) < _LONGEST:
                self._held = piece
                return passed
            self._inside = not whole
            passed += piece
        self._held = b""
        return passed

    def rest(self) -> bytes:
        """What was held back."""
        held, self._held = self._held, b""
        return held


def with_tls(camera: socket.socket, host: str) -> ssl.SSLSocket:
    """The connection inside TLS. Certificates are not checked: hardly a camera has one that somebody vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(camera, server_hostname=host)


def _lines(data: bytes) -> list[bytes]:
    return [line for line in re.split(rb"(?<=\n)", data) if line]


def _receive(camera: socket.socket) -> bytes | None:
    """What has come; b"" at the end, None when it was for TLS alone (a ticket, half a record)."""
    camera.setblocking(False)
    try:
        data = camera.recv(_BLOCK)
        while isinstance(camera, ssl.SSLSocket) and camera.pending():  # what TLS has read already wakes no selector
            data += camera.recv(camera.pending())
    except (ssl.SSLWantReadError, BlockingIOError):
        return None
    finally:
        camera.setblocking(True)
    return data
