"""Which addresses a source may have, and how FFmpeg is allowed to open them.

FFmpeg's own addresses can name pipes, devices, other protocols and its options. Here an address
is taken apart, everything in it is checked, and FFmpeg gets a list of the protocols and formats that it may
use for it; it follows no reference out of a file (playlists and session descriptions would open sockets).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from lensmount.errors import InvalidInputError
from lensmount_server.video import plugins
from lensmount_server.video.hosts import literal
from lensmount_server.video.parts import SCHEME, RefusedError, existing, numbers, path_in, split
from lensmount_server.video.policy import EXAMPLES, AddressPolicy, known_schemes
from lensmount_server.video.settings import Transport

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")
_CAMERA = re.compile(r"\d{1,3}|/dev/video\d{1,3}|/dev/v4l/by-(id|path)/[A-Za-z0-9._:-]+")
# FFmpeg takes these words in the query of an RTSP address for its own options.
_FFMPEG_WORDS = {"udp", "multicast", "tcp", "http", "https", "filter_src"}
_SRT_WORDS = {"streamid", "passphrase", "latency"}
_USB_WORDS = {"width": 16_384, "height": 16_384, "fps": 1000}
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,h264,hevc,flv,ogg,asf,ivf,m4v"
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935}


@dataclass(frozen=True)
class Address:
    """An address that may be opened.

    `url` and `options` are for what opens it, `shown` is without a password, `policy` is what it was checked with.
    `live`: when it ends or breaks, it is opened again. `host` and `port` are what it connects to; "" and 0: nothing.
    """

    scheme: str
    url: str
    shown: str
    live: bool
    options: dict[str, str] = field(hash=False)
    policy: AddressPolicy = field(repr=False)
    host: str = ""
    port: int = 0

    @property
    def path(self) -> Path:
        """The file or folder of an address that names one."""
        return Path(self.url.removeprefix(f"{self.scheme}:"))

    def check_host(self) -> list[str]:
        """The numeric addresses of its host, best first. It blocks; call it just before connecting.

        Raises CannotOpenError for a name that nobody knows, InvalidInputError for a host that is forbidden.
        """
        return [str(each) for each in self.policy.resolve(self.host, self.port, self.shown)]

    def at(self, number: str) -> str:
        """Its `url` with the host's name replaced by one of its numeric addresses."""
        place = f"[{number}]" if ":" in number else number
        return self._moved(self.scheme, f"{place}:{self.port}")

    @property
    def relayed(self) -> bool:
        """Whether FFmpeg reaches it through a port of this machine, and so can not be sent elsewhere.

        That costs something for every packet, so it is done only where the policy names the networks. Over UDP
        FFmpeg must know the camera itself.
        """
        guarded = bool(self.policy.networks)
        return guarded and (self.scheme == "rtsps" or self.options.get("rtsp_transport") == "tcp")

    def through(self, port: int) -> str:
        """Its `url` for a relay on this machine, which speaks TLS itself where that is asked for."""
        return self._moved("rtsp", f"127.0.0.1:{port}")

    def _moved(self, scheme: str, place: str) -> str:
        parts = urlsplit(self.url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(scheme=scheme, netloc=f"{login}{at}{place}").geturl()


def parse_address(url: str, policy: AddressPolicy, transport: Transport = Transport.TCP) -> Address:
    """The address in `url`. It looks at the file system and asks no name server.

    Raises InvalidInputError, which lists what is allowed, for what is malformed or forbidden.
    """
    if not url or len(url) > 2048 or not url.isprintable():
        raise _refused("not an address", url, policy)
    scheme = SCHEME.match(url)
    kind = scheme[1].lower() if scheme else "file"
    if kind not in policy.schemes:
        raise _refused(f"{kind}: {_why_unknown(kind)}", url, policy)
    if transport is Transport.UDP and kind != "rtsp":
        fix = "leave it out; only rtsp:// can travel over UDP"
        raise InvalidInputError(f"a {kind} address has no choice", field="transport", value="UDP", fix=fix)
    try:
        return _parser(kind, transport)(url, kind, policy)
    except RefusedError as refusal:
        raise _refused(str(refusal), url, policy) from refusal


def redacted(url: str) -> str:
    """The address without its password."""
    return re.sub(r"(?<=://)([^/?#@]*?):[^/?#]*@", r"\1:***@", url, count=1)


def _why_unknown(kind: str) -> str:
    if kind in known_schemes():
        return "is not allowed by this server"
    return "is not in this server's FFmpeg" if kind in EXAMPLES else "is not a kind of address known here"


_Parser = Callable[[str, str, AddressPolicy], Address]


def _parser(kind: str, transport: Transport) -> _Parser:
    if kind in ("rtsp", "rtsps"):
        return lambda url, kind, policy: _rtsp(url, kind, policy, transport)
    others: dict[str, _Parser] = {
        "http": _web, "https": _web, "rtmp": _rtmp, "srt": _srt, "file": _file, "folder": _folder, "usb": _usb
    }  # fmt: skip
    return others.get(kind, _plugin)


def _rtsp(url: str, kind: str, policy: AddressPolicy, transport: Transport) -> Address:
    address = _remote(url, kind, policy)
    words = _FFMPEG_WORDS & set(re.split(r"[?&#]", url))
    if words:
        raise RefusedError(f"?{min(words)} is an option of FFmpeg, not of a camera")
    udp = transport is Transport.UDP
    # Probing decides nothing that the first key frame does not say, and costs a second of old frames.
    options = {"allowed_media_types": "video", "probesize": "32", "analyzeduration": "0"}
    options["rtsp_transport"] = "udp" if udp else "tcp"
    options["protocol_whitelist"] = "rtsp,rtsps,tcp,tls" + (",udp,rtp" if udp else "")
    return replace(address, options=options | {"format_whitelist": "rtsp"})


def _web(url: str, kind: str, policy: AddressPolicy) -> Address:
    # All that it reads is opened by the server itself: FFmpeg has no protocol at all.
    # Encrypted segments would need `crypto`, other manifests would need checks of their own.
    options = {"protocol_whitelist": "none", "format_whitelist": f"{_CONTAINERS},hls,mpjpeg,mjpeg"}
    options |= {"http_persistent": "0", "http_multiple": "0"}
    return replace(_remote(url, kind, policy), options=options)


def _rtmp(url: str, kind: str, policy: AddressPolicy) -> Address:
    options = {"protocol_whitelist": "rtmp,tcp", "format_whitelist": "flv,live_flv", "rtmp_live": "live"}
    return replace(_remote(url, kind, policy), options=options)


def _srt(url: str, kind: str, policy: AddressPolicy) -> Address:
    address = _remote(url, kind, policy)
    words = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True)).keys() - _SRT_WORDS
    if words or not address.port:
        raise RefusedError(f"?{min(words)}= is not taken here" if words else "an SRT address needs a port")
    return replace(address, options={"protocol_whitelist": "srt", "format_whitelist": "mpegts", "mode": "caller"})


def _file(url: str, kind: str, policy: AddressPolicy) -> Address:
    place = policy.check_path(existing(path_in(url, kind)), url)
    if place.is_dir():
        raise RefusedError(f"this is a folder; for the pictures in it write folder:{place}")
    if not place.is_file():
        raise RefusedError("not a regular file")
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    return Address(kind, f"file:{place}", url, live=False, options=options, policy=policy)


def _folder(url: str, kind: str, policy: AddressPolicy) -> Address:
    text, _, query = url.partition("?")
    place = policy.check_path(existing(path_in(text, kind)), url)
    if not place.is_dir():
        raise RefusedError("this is no folder; for a video file write its path alone")
    options = numbers(query, {"fps": 1000})
    return Address(kind, f"folder:{place}", url, live=False, options=options, policy=policy)


def _usb(url: str, kind: str, policy: AddressPolicy) -> Address:
    text, _, query = url.partition("?")
    device = text.partition(":")[2]
    if not _CAMERA.fullmatch(device):
        raise RefusedError("a USB camera is usb:NUMBER, usb:/dev/videoNUMBER or usb:/dev/v4l/by-id/NAME")
    place = f"/dev/video{device}" if device.isdecimal() else device
    return Address(kind, f"usb:{place}", url, live=True, options=numbers(query, _USB_WORDS), policy=policy)


def _plugin(url: str, kind: str, policy: AddressPolicy) -> Address:
    return Address(kind, url, redacted(url), plugins.load(kind).live, options={}, policy=policy)


def _remote(url: str, kind: str, policy: AddressPolicy) -> Address:
    parts = split(url)
    host = parts.hostname or ""
    if not url[len(kind) :].startswith("://") or " " in url or "\\" in url:
        raise RefusedError("not an address")
    if not _HOST.fullmatch(host):
        raise RefusedError("it needs a host, by name or number")
    shown = redacted(url)
    number = literal(host)
    if number is not None:
        policy.check_address(number, shown)
    port = parts.port or _PORTS.get(kind, 0)
    return Address(kind, kind + url[len(kind) :], shown, True, options={}, policy=policy, host=host, port=port)


def _refused(why: str, url: str, policy: AddressPolicy) -> InvalidInputError:
    shown = re.sub(r"://.*@", "://***@", url)  # what is no address may hide its password anywhere
    brought = ", ".join(sorted(set(plugins.installed()) - set(EXAMPLES))) or "none"
    fix = f"use {policy.examples} (plugins installed: {brought})"
    return InvalidInputError(why, field="url", value=shown, fix=fix)
