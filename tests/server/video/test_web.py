from __future__ import annotations

import io
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from lensmount.errors import InvalidInputError
from lensmount_server.frames import Frame
from lensmount_server.video.address import parse_address
from lensmount_server.video.limits import ReaderOptions
from lensmount_server.video.policy import AddressPolicy, parse_network
from lensmount_server.video.reader import BrokenStreamError, CannotOpenError, VideoReader
from lensmount_server.video.settings import Pace
from opened import pixels_of
from videos import number_of, numbered, write_clip
from web_server import Page, WebServer, mjpeg, web_server

ONE = AddressPolicy(networks=(parse_network("127.0.0.1"),))
LOOPBACK = AddressPolicy(networks=(parse_network("127.0.0.0/8"),))
QUICK = ReaderOptions(silence_s=1.0)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """80 pictures, and their index far behind them."""
    data = write_clip(tmp_path_factory.mktemp("web") / "a.mp4", 80).read_bytes()
    index = data.index(b"moov") - 4
    gap = 1 << 20
    return data[:index] + gap.to_bytes(4, "big") + b"free" + bytes(gap - 8) + data[index:]


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_clip(tmp_path_factory.mktemp("web") / "a.ts", 20).read_bytes()


def reader(url: str, policy: AddressPolicy = ONE, *, loop: bool = False, pace: Pace = Pace.FAST) -> VideoReader:
    return VideoReader(parse_address(url, policy), loop=loop, pace=pace, options=QUICK)


def first(count: int, source: VideoReader) -> list[Frame]:
    with closing(source.frames()) as frames:
        return list(islice(frames, count))


def numbers(frames: list[Frame]) -> list[int]:
    return [number_of(pixels_of(frame.picture)) for frame in frames]


def playlist(*segments: str, live: bool = False) -> Page:
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1"]
    for each in segments:
        lines += ["#EXTINF:0.4,", each]
    return Page("\n".join([*lines, "" if live else "#EXT-X-ENDLIST", ""]).encode(), "application/vnd.apple.mpegurl")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_is_read_to_its_end(web: WebServer, segment: bytes, ranges: bool) -> None:
    web.pages["/a.ts"] = Page(segment, "video/mp2t", ranges=ranges)
    source = reader(web.url("/a.ts"))
    assert numbers(list(source.frames())) == list(range(20))
    assert source.codec == "h264"


def test_a_file_with_its_index_at_the_end_is_read_in_parts(web: WebServer, mp4: bytes) -> None:
    web.pages["/a.mp4"] = Page(mp4, "video/mp4")
    assert numbers(list(reader(web.url("/a.mp4")).frames())) == list(range(80))
    parts = [part for _, part, _ in web.asked]
    assert parts[0] == ""
    assert any(part.startswith("bytes=") for part in parts)
    web.pages["/a.mp4"].ranges = False
    with pytest.raises(BrokenStreamError):
        first(1, reader(web.url("/a.mp4")))


def test_a_recording_loops_and_keeps_its_pace(web: WebServer, segment: bytes) -> None:
    web.pages["/a.ts"] = Page(segment)
    started = time.monotonic()
    frames = first(50, reader(web.url("/a.ts"), loop=True, pace=Pace.REALTIME))
    assert [frame.index for frame in frames] == list(range(50))
    assert time.monotonic() - started >= 0.8  # 50 frames at 50 a second


def test_a_playlist_with_an_end_ends(web: WebServer, segment: bytes) -> None:
    web.pages |= {"/vod.m3u8": playlist("a.ts", "sub/b.ts"), "/a.ts": Page(segment), "/sub/b.ts": Page(segment)}
    assert len(list(reader(web.url("/vod.m3u8")).frames())) == 40


def test_a_playlist_without_an_end_is_live_and_its_end_a_failure(web: WebServer, segment: bytes) -> None:
    web.pages |= {"/live.m3u8": playlist("a.ts", live=True), "/a.ts": Page(segment)}
    source = reader(web.url("/live.m3u8"))
    with closing(source.frames()) as frames:
        assert len(list(islice(frames, 20))) == 20
        with pytest.raises((BrokenStreamError, CannotOpenError)):
            list(frames)


class TestForbidden:
    """Each way out is tried twice: with a policy that forbids where it leads, and with one that allows it."""

    @pytest.fixture
    def inside(self, segment: bytes) -> Iterator[WebServer]:
        """What must not be reached: another address of this machine."""
        with web_server({"/a.ts": Page(segment)}, "127.0.0.2") as server:
            yield server

    def check(self, url: str, inside: WebServer) -> None:
        with pytest.raises(InvalidInputError, match=r"127\.0\.0\.2 is outside the networks"):
            first(1, reader(url))
        assert inside.asked == []
        assert first(1, reader(url, LOOPBACK))
        assert inside.asked

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect(self, web: WebServer, inside: WebServer, status: int) -> None:
        web.pages["/a.ts"] = Page(status=status, location=inside.url("/a.ts", "127.0.0.2"))
        self.check(web.url("/a.ts"), inside)

    def test_a_segment(self, web: WebServer, inside: WebServer) -> None:
        web.pages["/list.m3u8"] = playlist(inside.url("/a.ts", "127.0.0.2"))
        self.check(web.url("/list.m3u8"), inside)

    def test_a_segment_that_redirects(self, web: WebServer, inside: WebServer) -> None:
        web.pages |= {
            "/list.m3u8": playlist("a.ts"),
            "/a.ts": Page(status=302, location=inside.url("/a.ts", "127.0.0.2")),
        }
        self.check(web.url("/list.m3u8"), inside)

    def test_a_variant(self, web: WebServer, inside: WebServer) -> None:
        inside.pages["/inner.m3u8"] = playlist("a.ts")
        text = f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9\n{inside.url('/inner.m3u8', '127.0.0.2')}\n"
        web.pages["/master.m3u8"] = Page(text.encode(), "application/vnd.apple.mpegurl")
        self.check(web.url("/master.m3u8"), inside)

    def test_an_initialization_section(self, web: WebServer, inside: WebServer) -> None:
        page = playlist("a.ts")
        line = f'#EXT-X-MAP:URI="{inside.url("/a.ts", "127.0.0.2")}"\n#EXTINF'.encode()
        page.body = page.body.replace(b"#EXTINF", line, 1)
        web.pages |= {"/list.m3u8": page, "/a.ts": inside.pages["/a.ts"]}
        self.check(web.url("/list.m3u8"), inside)

    def test_a_name_that_resolves_there(
        self, web: WebServer, inside: WebServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = socket.getaddrinfo

        def lying(host: str, *given: object, **named: object) -> object:
            return real("127.0.0.2" if host == "camera.test" else host, *given, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "getaddrinfo", lying)
        web.port = inside.port
        self.check(web.url("/a.ts", "camera.test"), inside)

    @pytest.mark.parametrize(
        "line",
        [
            "file:///etc/passwd",
            "ftp://127.0.0.1/a.ts",
            "concat:http://127.0.0.1/a.ts|file:/etc/passwd",
            "data:video/mp2t;base64,AAAA",
            "subfile,,start,0,end,9,,:/etc/passwd",
            "rtsp://127.0.0.1/x",
            "tcp://127.0.0.1:1",
        ],
    )
    def test_a_segment_of_another_protocol(self, web: WebServer, line: str) -> None:
        web.pages["/list.m3u8"] = playlist(line)
        with pytest.raises((InvalidInputError, CannotOpenError, BrokenStreamError)):
            first(1, reader(web.url("/list.m3u8"), LOOPBACK))
        assert set(web.paths) <= {"/list.m3u8", f"/{line}"}  # taken for a name beside the list, or not at all

    def test_a_key(self, web: WebServer, segment: bytes) -> None:
        page = playlist("a.ts")
        page.body = page.body.replace(b"#EXTINF", b'#EXT-X-KEY:METHOD=AES-128,URI="key"\n#EXTINF', 1)
        web.pages |= {"/list.m3u8": page, "/a.ts": Page(segment), "/key": Page(bytes(16))}
        with pytest.raises(InvalidInputError, match="crypto"):
            first(1, reader(web.url("/list.m3u8")))

    def test_an_endless_redirect(self, web: WebServer) -> None:
        web.pages["/a"] = Page(status=302, location="/a")
        with pytest.raises(CannotOpenError, match="302"):
            first(1, reader(web.url("/a")))

    @pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/a", "rtsp://127.0.0.1/a", "gopher:x"])
    def test_a_redirect_to_another_protocol(self, web: WebServer, location: str) -> None:
        web.pages["/a"] = Page(status=302, location=location)
        with pytest.raises(CannotOpenError, match=r"302|unknown"):
            first(1, reader(web.url("/a")))


@pytest.mark.parametrize("digest", [False, True])
def test_a_login(web: WebServer, segment: bytes, digest: bool) -> None:
    web.pages["/a.ts"] = Page(segment, login="me:se cret", digest=digest)
    assert first(1, reader(web.url("/a.ts", login="me:se%20cret@")))
    with pytest.raises(InvalidInputError, match="401") as caught:
        first(1, reader(web.url("/a.ts", login="me:wrongword@")))
    assert "wrongword" not in str(caught.value)


def test_a_login_of_an_unknown_kind(web: WebServer) -> None:
    with web_server() as other:
        other.pages["/a"] = Page(login="me:x", scheme="Negotiate")
        with pytest.raises(InvalidInputError, match="Negotiate"):
            first(1, reader(other.url("/a", login="me:secret@")))


def test_a_path_in_any_script(web: WebServer, segment: bytes) -> None:
    web.pages["/%E9%97%A8/a%20b.ts"] = Page(segment)
    assert first(1, reader(web.url("/门/a%20b.ts")))


def test_a_login_goes_to_its_own_server_only(web: WebServer, segment: bytes) -> None:
    with web_server({"/a.ts": Page(segment, login="me:secret")}, "127.0.0.2") as other:
        web.pages["/a.ts"] = Page(status=302, location=other.url("/a.ts", "127.0.0.2"), login="me:secret")
        with pytest.raises(InvalidInputError, match="401"):
            first(1, reader(web.url("/a.ts", login="me:secret@"), LOOPBACK))
        assert web.asked[-1][2]
        assert [login for _, _, login in other.asked] == [""]


@pytest.mark.parametrize(
    ("page", "kind", "words"),
    [
        (Page(b"<html>hello</html>", "text/html; charset=utf-8"), InvalidInputError, "web page"),
        (Page(b"<html>hello</html>"), InvalidInputError, "not a video"),
        (Page(b"just text\n" * 99, "text/plain"), InvalidInputError, "not a video"),
        (Page(b""), InvalidInputError, "not a video"),
        (Page(b"", status=403), InvalidInputError, "403"),
        (Page(b"", status=503), CannotOpenError, "503"),
    ],
)
def test_what_is_no_video(web: WebServer, page: Page, kind: type[Exception], words: str) -> None:
    web.pages["/a"] = page
    with pytest.raises(kind, match=words):
        first(1, reader(web.url("/a")))


def test_what_is_not_there(web: WebServer) -> None:
    with pytest.raises(CannotOpenError, match="404"):
        first(1, reader(web.url("/a")))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        web.port = silent.getsockname()[1]
        with pytest.raises(CannotOpenError, match="no answer within 1 s"):
            first(1, reader(web.url("/a")))
    with pytest.raises(CannotOpenError, match="refused"):
        first(1, reader(web.url("/a")))


def test_a_name_that_nobody_knows(web: WebServer) -> None:
    with pytest.raises(CannotOpenError, match=r"nobody knows the host no-such-host\.invalid"):
        first(1, reader("http://no-such-host.invalid/a.mp4"))


def test_a_file_that_breaks_off_is_broken_not_ended(web: WebServer, segment: bytes) -> None:
    web.pages["/a.ts"] = Page(segment, claims=len(segment) + 999, ranges=False)
    with pytest.raises(BrokenStreamError, match="ended after"):
        list(reader(web.url("/a.ts")).frames())


def jpegs(count: int) -> list[bytes]:
    made = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.fromarray(numbered(number)).save(buffer, "JPEG", quality=95)
        made.append(buffer.getvalue())
    return made


def test_an_mjpeg_camera_is_live_and_fresh(web: WebServer) -> None:
    body = mjpeg(jpegs(100), fps=20)
    web.pages["/cam"] = Page(kind="multipart/x-mixed-replace; boundary=frame", chunks=body)
    source = reader(web.url("/cam"))
    started = time.monotonic()
    frames = first(40, source)
    assert source.codec == "mjpeg"
    assert numbers(frames) == list(range(40))
    assert time.monotonic() - started < 4  # 2 s of pictures


def test_an_mjpeg_camera_that_ends_is_a_failure(web: WebServer) -> None:
    body = mjpeg(jpegs(30), fps=500)
    web.pages["/cam"] = Page(kind="multipart/x-mixed-replace; boundary=frame", chunks=lambda: islice(body(), 60))
    with pytest.raises(BrokenStreamError, match="the camera ended the stream"):
        list(reader(web.url("/cam")).frames())


def test_a_stream_that_falls_silent_is_given_up(web: WebServer) -> None:
    over = threading.Event()

    def body() -> Iterator[bytes]:
        yield from islice(mjpeg(jpegs(30), fps=500)(), 60)
        over.wait(20)

    web.pages["/cam"] = Page(kind="multipart/x-mixed-replace; boundary=frame", chunks=body)
    started = time.monotonic()
    with pytest.raises(BrokenStreamError):
        list(reader(web.url("/cam")).frames())
    over.set()
    assert time.monotonic() - started < 10


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path, segment: bytes) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl here to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*make, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with web_server({"/a.ts": Page(segment)}) as web:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        with closing(_tls_front(context, web.port)) as front:
            url = f"https://localhost:{front.getsockname()[1]}/a.ts"
            with pytest.raises(CannotOpenError, match="certificate"):
                first(1, reader(url, LOOPBACK_6))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("SSL_CERT_FILE", str(certificate))
                assert first(1, reader(url, LOOPBACK_6))


LOOPBACK_6 = AddressPolicy(networks=(parse_network("127.0.0.0/8"), parse_network("::1")))


def _tls_front(context: ssl.SSLContext, port: int) -> socket.socket:
    """A TLS listener before a plain server: one request a connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            try:
                where = ("127.0.0.1", port)
                with context.wrap_socket(raw, server_side=True) as tls, socket.create_connection(where) as plain:
                    plain.sendall(tls.recv(65536))
                    while data := plain.recv(65536):
                        tls.sendall(data)
            except OSError:
                raw.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener
