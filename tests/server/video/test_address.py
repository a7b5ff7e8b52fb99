from __future__ import annotations

import os
from pathlib import Path

import pytest

from lensmount.errors import InvalidInputError
from lensmount_server.video.address import parse_address, redacted
from videos import ANYWHERE


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://camera/",
        "rtsps://camera:322/stream1",
        "RTSP://10.0.0.7:554/cam/realmonitor?channel=1&subtype=0",
        "rtsp://me:secret@[::1]:554/x",
    ],
)
def test_cameras_are_allowed(url: str) -> None:
    address = parse_address(url, ANYWHERE)
    assert address.live
    assert address.url.startswith(("rtsp://", "rtsps://"))
    assert address.options["rtsp_transport"] == "tcp"
    assert "secret" not in address.shown


def test_files_are_allowed_by_path_and_by_address(tmp_path: Path) -> None:
    path = tmp_path / "a clip.mp4"
    path.write_bytes(b"x")
    for url in (
        str(path),
        f"file://{tmp_path}/a%20clip.mp4",
        f"file://localhost{tmp_path}/a%20clip.mp4",
        f"file:{path}",
    ):
        address = parse_address(url, ANYWHERE)
        assert not address.live
        assert address.url == f"file:{path}"
        assert address.options["protocol_whitelist"] == "file"


def test_a_relative_path_is_fixed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert parse_address("clip.mp4", ANYWHERE).url == f"file:{tmp_path / 'clip.mp4'}"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "udp://0.0.0.0:5000",
        "concat:/etc/passwd|/etc/hosts",
        "pipe:0",
        "data:video/mp4;base64,AAAA",
        "subfile,,start,0,end,9,,:/etc/passwd",
        "crypto+file:/etc/passwd",
        "rtspu://camera/x",
        "rtsp+http://camera/x",
        "rtsp:///path",
        "rtsp://",
        "rtsp://camera:notaport/x",
        "rtsp://camera/x?udp",
        "rtsp://camera/x?channel=1&multicast",
        "rtsp://camera/x#?udp",
        "rtsp://camera/x?a=1?tcp",
        "rtsp://camera/x y",
        "rtsp://camera\\@evil/x",
        "rtsp:camera/x",
        "rtsp://ca|mera/x",
        "rtsp://ca,mera/x",
        "rtsp://[::1/x",
        "rtsp://[camera]/x",
        "rtsp://camera%0d/x",
        "rtsp://cam%2fera/x",
        "http://",
        "http:///a.mp4",
        "http:/camera/x",
        "http://camera:0x50/x",
        "http://came ra/x",
        "http://①⑥⑨.254.169.254/",
        "rtmp://camera/live/x live=1",
        "rtmps://camera/live/x",
        "srt://0.0.0.0:1?mode=listener",
        "ftp://camera/x.mp4",
        "tcp://camera:1",
        "unix:/tmp/x",
        "fd:0",
        "cache:http://camera/x",
        "async:http://camera/x",
        "httpproxy://camera/x",
        "ipfs://camera/x",
        "rtp://camera:1",
        "lavfi:testsrc",
        "video4linux2:/dev/video0",
        "usb:",
        "usb:x",
        "usb:-1",
        "usb:0?width=0",
        "usb:0?width=1e9",
        "usb:0?backend=ffmpeg",
        "usb:/etc/passwd",
        "usb:/dev/video0/../sda",
        "usb:rtsp://camera/x",
        "usb://0",
        "folder:/no/such",
        "folder:/?fps=0",
        "folder:/?fps=nan",
        "folder:/?rate=2",
        "folder://elsewhere/x",
        "folder:/dev/null",
        "rtsp://camera/x\r\nDESCRIBE",
        "file://elsewhere/clip.mp4",
        "/no/such/file.mp4",
        "/",
        "/dev/null",
        "/dev/zero",
        "file:/dev/zero",
        "file:/proc/self/fd/0",
        "clip\0.mp4",
        "x" * 3000,
    ],
)
def test_everything_else_is_refused_with_the_list(url: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_address(url, ANYWHERE)
    assert caught.value.field == "url"
    assert "rtsp://HOST/PATH" in caught.value.fix


def test_a_pipe_in_the_file_system_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InvalidInputError):
        parse_address(str(tmp_path / "pipe.mp4"), ANYWHERE)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://me:secret@camera/x", "rtsp://me:***@camera/x"),
        ("rtsp://me:se@cret@camera/x", "rtsp://me:***@camera/x"),
        ("rtsp://camera:554/x?mail=a@b", "rtsp://camera:554/x?mail=a@b"),
        ("/data/a:b@c.mp4", "/data/a:b@c.mp4"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize("url", ["rtsp://me:sec/ret@camera/x", "udp://me:secret@camera/", "rtsp://me:secret@:1/x"])
def test_a_refusal_does_not_repeat_the_password(url: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_address(url, ANYWHERE)
    assert "ret" not in str(caught.value)
