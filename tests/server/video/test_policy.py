from __future__ import annotations

import pickle
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lensmount.errors import InvalidInputError
from lensmount_server.video.address import Address, parse_address
from lensmount_server.video.errors import CannotOpenError
from lensmount_server.video.hosts import forbidden, literal
from lensmount_server.video.policy import AddressPolicy, ffmpeg_has, known_schemes, parse_network
from lensmount_server.video.settings import Transport
from videos import ANYWHERE

SPELLINGS = [
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0xA9.254.0251.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[::169.254.169.254]",
    "[64:ff9b::169.254.169.254]",
    "[2002:a9fe:a9fe::1]",
    "[0:0:0:0:0:ffff:a9fe:a9fe]",
]


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "http", "https", "rtmp"])
@pytest.mark.parametrize("host", SPELLINGS)
def test_a_metadata_service_is_refused_however_it_is_spelt(scheme: str, host: str) -> None:
    with pytest.raises(InvalidInputError, match=r"169\.254\.169\.254 is a metadata service"):
        parse_address(f"{scheme}://me:x@{host}:80/x", ANYWHERE)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("100.100.100.200", "metadata"),
        ("[fd00:ec2::254]", "metadata"),
        ("169.254.1.1", "link-local"),
        ("[fe80::1]", "link-local"),
        ("0.0", "not the address of one host"),
        ("0", "not the address of one host"),
        ("[::]", "not the address of one host"),
        ("224.0.0.1", "not the address of one host"),
        ("[ff02::1]", "not the address of one host"),
        ("255.255.255.255", "not the address of one host"),
    ],
)
def test_hosts_that_are_no_cameras(host: str, why: str) -> None:
    with pytest.raises(InvalidInputError, match=why):
        parse_address(f"rtsp://{host}/x", ANYWHERE)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "10.0.0.7", "192.168.1.9", "[fd00::7]", "8.8.8.8", "camera"])
def test_hosts_where_cameras_live(host: str) -> None:
    assert parse_address(f"rtsp://{host}/x", ANYWHERE).host == host.strip("[]")


def test_networks_say_where_hosts_are() -> None:
    policy = AddressPolicy(networks=(parse_network("10.1.0.0/16"), parse_network("169.254.0.0/16")))
    for host in ("10.1.2.3", "0x0a010203", "[::ffff:10.1.2.3]", "169.254.7.7"):
        assert parse_address(f"rtsp://{host}/x", policy)
    for host in ("10.2.0.1", "127.0.0.1", "[::1]", "8.8.8.8"):
        with pytest.raises(InvalidInputError, match="outside the networks"):
            parse_address(f"rtsp://{host}/x", policy)
    with pytest.raises(InvalidInputError, match="metadata"):  # even where its network is allowed
        parse_address("rtsp://169.254.169.254/x", policy)


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "camera", "10.0.0.0/33", "10.0.0"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_network(text)
    assert caught.value.field == "source-network"


def resolving(**names: list[str]) -> Callable[..., object]:
    def getaddrinfo(host: str, port: int, **_: object) -> object:
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in names[host]]

    return getaddrinfo


def test_a_name_is_checked_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"good": ["10.0.0.7", "10.0.0.8"], "mixed": ["10.0.0.7", "169.254.169.254"]}
    monkeypatch.setattr(socket, "getaddrinfo", resolving(**names))
    assert parse_address("rtsp://good/x", ANYWHERE).check_host() == ["10.0.0.7", "10.0.0.8"]
    with pytest.raises(InvalidInputError, match="metadata"):
        parse_address("rtsp://me:secret@mixed/x", ANYWHERE).check_host()
    with pytest.raises(CannotOpenError, match="nobody knows the host other") as caught:
        parse_address("rtsp://me:secret@other/x", ANYWHERE).check_host()
    assert "secret" not in str(caught.value)


def test_parsing_asks_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving())
    assert parse_address("rtsp://camera/x", ANYWHERE).host == "camera"


@pytest.mark.parametrize(
    ("url", "number", "pinned"),
    [
        ("rtsp://camera/x?a=1", "10.0.0.7", "rtsp://10.0.0.7:554/x?a=1"),
        ("rtsp://me:se@cret@camera:8554/x#y", "10.0.0.7", "rtsp://me:se@cret@10.0.0.7:8554/x#y"),
        ("rtmp://camera/live/x", "::1", "rtmp://[::1]:1935/live/x"),
    ],
)
def test_an_address_goes_to_the_number_that_was_checked(url: str, number: str, pinned: str) -> None:
    assert parse_address(url, ANYWHERE).at(number) == pinned


def test_schemes(tmp_path: Path) -> None:
    assert set(AddressPolicy().schemes) == set(known_schemes())
    (tmp_path / "a.mp4").write_bytes(b"x")
    only = AddressPolicy(("rtsp",), (Path("/"),))
    assert parse_address("rtsp://camera/x", only)
    for url in (str(tmp_path / "a.mp4"), "http://camera/x", "usb:0"):
        with pytest.raises(InvalidInputError, match="is not allowed by this server") as caught:
            parse_address(url, only)
        assert "rtsp://HOST/PATH" in caught.value.fix
        assert "usb" not in caught.value.fix
    with pytest.raises(InvalidInputError, match="no such kind of source"):
        AddressPolicy(("gopher",))


def test_a_protocol_that_this_ffmpeg_lacks_is_named() -> None:
    assert ffmpeg_has("rtmp")
    assert not ffmpeg_has("nosuch")
    if ffmpeg_has("srt"):
        assert parse_address("srt://camera:9000?streamid=a", ANYWHERE)
    else:
        with pytest.raises(InvalidInputError, match="srt: is not in this server's FFmpeg"):
            parse_address("srt://camera:9000", ANYWHERE)


class TestFolders:
    @pytest.fixture
    def policy(self, tmp_path: Path) -> AddressPolicy:
        (tmp_path / "open").mkdir()
        (tmp_path / "open" / "a.mp4").write_bytes(b"x")
        (tmp_path / "shut").mkdir()
        (tmp_path / "shut" / "a.mp4").write_bytes(b"x")
        return AddressPolicy(folders=(tmp_path / "open",))

    def test_inside(self, policy: AddressPolicy, tmp_path: Path) -> None:
        assert parse_address(f"{tmp_path}/open/a.mp4", policy).path == tmp_path / "open" / "a.mp4"
        assert parse_address(f"folder:{tmp_path}/open", policy).path == tmp_path / "open"
        assert parse_address(f"{tmp_path}/shut/../open/a.mp4", policy)

    @pytest.mark.parametrize("path", ["shut/a.mp4", "open/../shut/a.mp4", "open/link.mp4", "open/way/a.mp4"])
    @pytest.mark.parametrize("prefix", ["", "file:", "file://"])
    def test_outside(self, policy: AddressPolicy, tmp_path: Path, path: str, prefix: str) -> None:
        (tmp_path / "open" / "link.mp4").symlink_to(tmp_path / "shut" / "a.mp4")
        (tmp_path / "open" / "way").symlink_to(tmp_path / "shut")
        with pytest.raises(InvalidInputError, match="not open to sources") as caught:
            parse_address(f"{prefix}{tmp_path}/{path}", policy)
        assert "--source-folder" in caught.value.fix

    @pytest.mark.usefixtures("policy")
    def test_a_folder_that_is_a_link_itself(self, tmp_path: Path) -> None:
        (tmp_path / "name").symlink_to(tmp_path / "open")
        assert parse_address(f"{tmp_path}/name/a.mp4", AddressPolicy(folders=(tmp_path / "name",)))

    def test_the_current_folder_is_the_default(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a.mp4").write_bytes(b"x")
        policy = AddressPolicy()
        monkeypatch.chdir("/")
        assert parse_address(str(tmp_path / "a.mp4"), policy)
        with pytest.raises(InvalidInputError, match="not open to sources"):
            parse_address("/etc/passwd", policy)


def test_transport() -> None:
    assert parse_address("rtsp://camera/x", ANYWHERE).options["rtsp_transport"] == "tcp"
    udp = parse_address("rtsp://camera/x", ANYWHERE, Transport.UDP)
    assert udp.options["rtsp_transport"] == "udp"
    assert udp.options["protocol_whitelist"] == "rtsp,rtsps,tcp,tls,udp,rtp"
    for url in ("rtsps://camera/x", "http://camera/x", "usb:0"):
        with pytest.raises(InvalidInputError) as caught:
            parse_address(url, ANYWHERE, Transport.UDP)
        assert caught.value.field == "transport"


@pytest.mark.parametrize("url", ["rtsp://me:secret@camera/x", "http://camera/x", "usb:0?fps=30", "folder:/"])
def test_addresses_travel_to_other_processes(url: str) -> None:
    address = parse_address(url, ANYWHERE)
    copy: Address = pickle.loads(pickle.dumps(address))  # noqa: S301  # our own
    assert copy == address
    assert "secret" not in repr(address.shown)


def test_a_literal_is_what_the_c_library_takes() -> None:
    assert str(literal("127.1")) == "127.0.0.1"
    assert literal("camera-1") is None
    address = literal("127.1")
    assert address is not None
    assert forbidden(address, ()) == ""
