"""Which addresses a source may have, and how FFmpeg is allowed to open them.

FFmpeg's own addresses can name pipes, devices, other protocols and its options. Only
two kinds pass here: cameras over RTSP, and regular files, of which FFmpeg may follow no
reference to anything else (playlists and session descriptions would open sockets).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from lensmount.errors import InvalidInputError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.,-]*):")
_ALLOWED = "rtsp://HOST/PATH, rtsps://HOST/PATH, or the path of a video file on the server"
# FFmpeg takes these words in a query for its own options.
_FFMPEG_WORDS = {"udp", "multicast", "tcp", "http", "https", "filter_src"}
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,h264,hevc,flv,ogg,asf,ivf,m4v"


@dataclass(frozen=True)
class Address:
    """An address that may be opened: `url` and `options` for FFmpeg, `shown` without a password."""

    url: str
    shown: str
    live: bool
    options: dict[str, str] = field(hash=False)


def parse_address(url: str) -> Address:
    """The address in `url`. Raises InvalidInputError, which lists what is allowed."""
    if not url or len(url) > 2048 or not url.isprintable():
        raise _refused("not an address", url)
    scheme = _SCHEME.match(url)
    kind = scheme[1].lower() if scheme else "file"
    if kind in ("rtsp", "rtsps"):
        return _camera(url, kind)
    if kind == "file":
        return _file(url, _path(url) if scheme else url)
    raise _refused(f"{kind}: is not allowed", url)


def redacted(url: str) -> str:
    """The address without its password."""
    return re.sub(r"(?<=://)([^/?#@]*?):[^/?#]*@", r"\1:***@", url, count=1)


def _camera(url: str, kind: str) -> Address:
    parts = _split(url)
    if not parts.hostname or " " in url:
        raise _refused("an RTSP address needs a host", url)
    words = _FFMPEG_WORDS & set(parts.query.split("&"))
    if words:
        raise _refused(f"?{min(words)} is an option of FFmpeg, not of a camera", url)
    # Probing decides nothing that the first key frame does not say, and costs a second of old frames.
    options = {"rtsp_transport": "tcp", "allowed_media_types": "video", "probesize": "32", "analyzeduration": "0"}
    protocols = {"protocol_whitelist": "rtsp,rtsps,tcp,tls", "format_whitelist": "rtsp"}
    return Address(kind + url[len(kind) :], redacted(url), live=True, options=options | protocols)


def _file(url: str, path: str) -> Address:
    place = Path(path).absolute()
    try:
        regular = place.is_file()
    except OSError as error:
        raise _refused(f"can not be looked at: {error.strerror}", url) from error
    if not regular:
        raise _refused("no such file on the server", url)
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    return Address(f"file:{place}", url, live=False, options=options)


def _path(url: str) -> str:
    parts = _split(url)
    if parts.netloc not in ("", "localhost"):
        raise _refused("a file address has no host", url)
    return unquote(parts.path) if url[5:7] == "//" else url[5:]


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # read for its check
    except ValueError as error:
        raise _refused("not an address", url) from error
    return parts


def _refused(why: str, url: str) -> InvalidInputError:
    shown = re.sub(r"://.*@", "://***@", url)  # what is no address may hide its password anywhere
    return InvalidInputError(why, field="url", value=shown, fix=f"use {_ALLOWED}")
