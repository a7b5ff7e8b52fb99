"""A web server on loopback for tests: files with ranges, redirects, logins, endless streams and lies."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What is at a path. `claims`: a Content-Length that is not true; `chunks`: an endless body instead of `body`."""

    body: bytes = b""
    kind: str = "application/octet-stream"
    status: int = 200
    location: str = ""
    ranges: bool = True
    claims: int = 0
    chunks: Callable[[], Iterator[bytes]] | None = None
    login: str = ""
    digest: bool = False
    scheme: str = "Basic"


@dataclass
class WebServer:
    """Where it listens, what it serves, and what it was asked for."""

    port: int = 0
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def url(self, path: str, host: str = "127.0.0.1", login: str = "") -> str:
        return f"http://{login}{host}:{self.port}{path}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]


@contextmanager
def web_server(pages: dict[str, Page] | None = None, address: str = "127.0.0.1") -> Iterator[WebServer]:
    """A server that runs while the context is open."""
    served = WebServer(pages=pages or {})

    class Handler(_Handler):
        web = served

    with ThreadingHTTPServer((address, 0), Handler) as server:
        served.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield served
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    web: WebServer

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        headers = self.headers
        self.web.asked.append((self.path, headers.get("Range", ""), headers.get("Authorization", "")))
        page = self.web.pages.get(self.path)
        if page is None:
            self.send_error(404)
        elif page.login and not self._knows(page):
            self.send_response(401)
            realm = 'Digest realm="cam", qop="auth", nonce="abc"' if page.digest else f'{page.scheme} realm="cam"'
            self.send_header("WWW-Authenticate", realm)
            self.end_headers()
        else:
            self._send(page)

    def _knows(self, page: Page) -> bool:
        sent = self.headers.get("Authorization", "")
        if not page.digest:
            return sent == "Basic " + base64.b64encode(page.login.encode()).decode()
        parts = dict(part.strip().split("=", 1) for part in sent.removeprefix("Digest ").split(",") if "=" in part)
        parts = {key: value.strip('"') for key, value in parts.items()}
        name, _, password = page.login.partition(":")
        one, two = (
            hashlib.md5(text.encode()).hexdigest()  # noqa: S324  # RFC 7616 asks for it
            for text in (f"{name}:cam:{password}", f"GET:{self.path}")
        )
        proof = f"{one}:abc:{parts.get('nc')}:{parts.get('cnonce')}:auth:{two}"
        return parts.get("response") == hashlib.md5(proof.encode()).hexdigest()  # noqa: S324

    def _send(self, page: Page) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0]) if page.ranges else 0
        partial = page.ranges and "Range" in self.headers
        self.send_response(206 if partial else page.status)
        self.send_header("Content-Type", page.kind)
        if page.location:
            self.send_header("Location", page.location)
        if page.chunks is None:
            self.send_header("Content-Length", str((page.claims or len(page.body)) - start))
            if page.ranges:
                self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        try:
            for piece in page.chunks() if page.chunks else [page.body[start:]]:
                self.wfile.write(piece)
        except OSError:
            pass  # the reader has gone


def mjpeg(jpegs: list[bytes], fps: float) -> Callable[[], Iterator[bytes]]:
    """The body of an endless multipart/x-mixed-replace stream, as cameras send it."""

    def body() -> Iterator[bytes]:
        while True:
            for jpeg in jpegs:
                yield b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)
                time.sleep(1 / fps)

    return body
