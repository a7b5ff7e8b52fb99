from __future__ import annotations

import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmount_server.video.address import parse_address
from lensmount_server.video.errors import CannotOpenError
from lensmount_server.video.open import open_reader
from lensmount_server.video.policy import AddressPolicy, parse_network
from lensmount_server.video.reader import ReaderOptions
from lensmount_server.video.relay import LineFilter, Relay, with_tls
from lensmount_server.video.settings import Transport
from rtsp_server import RtspServer, needs_rtsp
from videos import ANYWHERE

QUICK = ReaderOptions(silence_s=2.0)


def filtered(data: bytes, cuts: list[int]) -> bytes | None:
    lines, passed, start = LineFilter(), b"", 0
    for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        now = lines.feed(data[start:cut])
        if now is None:
            return None
        passed, start = passed + now, cut
    return passed + lines.rest()


HARMLESS = b"RTSP/1.0 200 OK\r\nCSeq: 3\r\nContent-Length: 9\r\nX-Location: y\r\n\r\na=x:$3\n" + b"z" * 200 + b"\nv=0"


@given(st.lists(st.integers(0, len(HARMLESS)), max_size=20))
def test_what_does_not_redirect_passes_however_it_is_cut(cuts: list[int]) -> None:
    assert filtered(HARMLESS, cuts) == HARMLESS


@pytest.mark.parametrize(
    "evil",
    [
        b"Location: rtsp://x/y\r\n",
        b"lOCATION:rtsp://x/y\n",
        b"\rLo\rcation: rtsp://x/y\n",
        b"RTSP/1.0 302 Found\r\n",
        b"RTSP/1.0   301 Moved\r\n",
        b"$\0\0\x04abcdLocation: x\r\n",
        b"\r$\0\0\x04abcdLocation: x\r\n",
    ],
)
@given(cuts=st.lists(st.integers(0, 300), max_size=20))
def test_what_redirects_never_passes_however_it_is_cut(evil: bytes, cuts: list[int]) -> None:
    assert filtered(b"RTSP/1.0 200 OK\r\nX: " + b"y" * 100 + b"\r\n" + evil + b"\r\n", cuts) is None


@contextmanager
def redirecting(target: int) -> Iterator[int]:
    """The port of a camera that sends everybody to 127.0.0.2."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    while data := connection.recv(4096).decode():
                        number = next(line for line in data.split("\r\n") if line.startswith("CSeq"))
                        answer = "302 Found" if data.startswith("DESCRIBE") else "200 OK"
                        where = f"Location: rtsp://127.0.0.2:{target}/x\r\n" if "302" in answer else ""
                        connection.sendall(f"RTSP/1.0 {answer}\r\n{number}\r\n{where}\r\n".encode())

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(("transport", "followed"), [(Transport.TCP, False), (Transport.UDP, True)])
def test_a_redirect_is_not_followed(transport: Transport, followed: bool) -> None:
    """Over UDP there is no relay: the control that shows what FFmpeg does by itself, and a known limit."""
    here = AddressPolicy(networks=(parse_network("127.0.0.1"),))
    with socket.create_server(("127.0.0.2", 0)) as inside, redirecting(inside.getsockname()[1]) as port:
        inside.settimeout(0.1)
        source = open_reader(parse_address(f"rtsp://127.0.0.1:{port}/x", here, transport), options=QUICK)
        with pytest.raises(CannotOpenError, match="no RTSP answer" if followed else "redirects to another address"):
            next(source.frames())
        if followed:
            inside.accept()[0].close()
        else:
            with pytest.raises(TimeoutError):
                inside.accept()


def test_a_relay_takes_one_connection_and_closes() -> None:
    here, camera = socket.socketpair()
    with here, closing(Relay(camera)) as relay, socket.create_connection(("127.0.0.1", relay.port)) as client:
        client.sendall(b"PLAY x\r\n")
        assert here.recv(99) == b"PLAY x\r\n"
        here.sendall(b"$Location: harmless after PLAY")
        assert client.recv(99) == b"$Location: harmless after PLAY"
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", relay.port))


def test_a_relay_that_nobody_comes_to_closes() -> None:
    here, camera = socket.socketpair()
    with here:
        Relay(camera).close()
        assert here.recv(1) == b""


def test_a_relay_closes_while_its_camera_takes_nothing() -> None:
    here, camera = socket.socketpair()
    relay = Relay(camera)
    with here, socket.create_connection(("127.0.0.1", relay.port)) as client:
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(64 << 20))
        relay.close()


@pytest.mark.parametrize("record", [b"", b"RTSP/1.0 200 OK\r\n\r\n"])
def test_a_relay_does_not_wait_for_more_than_a_tls_ticket(tmp_path: Path, record: bytes) -> None:
    context = server_tls(tmp_path)
    here, there = socket.socketpair()
    made: list[ssl.SSLSocket] = []
    shaking = threading.Thread(target=lambda: made.append(context.wrap_socket(here, server_side=True)))
    shaking.start()
    camera = with_tls(there, "camera")
    shaking.join()
    with (
        made[0] as server,
        closing(Relay(camera)) as relay,
        socket.create_connection(("127.0.0.1", relay.port), 5) as client,
    ):
        server.settimeout(5)
        if record:
            server.sendall(record)
            assert client.recv(99) == record
        time.sleep(0.2)  # tickets have come, and nothing else
        client.sendall(b"OPTIONS x")
        assert server.recv(99) == b"OPTIONS x"


def server_tls(folder: Path) -> ssl.SSLContext:
    """The TLS of a camera, with a certificate that nobody vouches for."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl here to make a certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=camera"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.mark.rtsp
def test_a_camera_with_tls(tmp_path: Path) -> None:
    needs_rtsp()
    context = server_tls(tmp_path)
    with RtspServer() as camera, tls_front(context, camera.port) as port:
        source = open_reader(parse_address(f"rtsps://localhost:{port}/cam", ANYWHERE), options=ReaderOptions(20.0))
        with closing(source.frames()) as frames:
            assert len(list(islice(frames, 30))) == 30


@contextmanager
def tls_front(context: ssl.SSLContext, port: int) -> Iterator[int]:
    """TLS before a plain server, for one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                raw, _ = listener.accept()
                where = ("127.0.0.1", port)
                with context.wrap_socket(raw, server_side=True) as tls, socket.create_connection(where) as up:
                    forward(tls, up)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def forward(tls: ssl.SSLSocket, up: socket.socket) -> None:
    """Both ways, in one thread: TLS is not for two."""
    tls.settimeout(0.01)
    while True:
        ready, _, _ = select.select([tls, up], [], [], 1)
        if tls in ready or tls.pending():
            with suppress(TimeoutError):
                data = tls.recv(65536)
                up.sendall(data)
                if not data:
                    return
        if up in ready:
            tls.settimeout(10)
            data = up.recv(65536)
            tls.sendall(data)
            tls.settimeout(0.01)
            if not data:
                return
