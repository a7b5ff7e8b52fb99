"""Where sources may come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_network
from pathlib import Path

import av

from lensmount.errors import InvalidInputError
from lensmount_server.video import plugins
from lensmount_server.video.errors import CannotOpenError
from lensmount_server.video.hosts import IpAddress, IpNetwork, forbidden, resolve

# How an address of each kind is written.
EXAMPLES = {
    "rtsp": "rtsp://HOST/PATH",
    "rtsps": "rtsps://HOST/PATH",
    "http": "http://HOST/PATH",
    "https": "https://HOST/PATH",
    "rtmp": "rtmp://HOST/APP/NAME",
    "srt": "srt://HOST:PORT",
    "file": "the path of a video file on the server",
    "folder": "folder:PATH",
    "usb": "usb:0",
}


@cache
def ffmpeg_has(protocol: str) -> bool:
    """Whether this FFmpeg was built with a protocol. It connects to nothing."""
    try:
        # A protocol that it has is then refused by the list of those allowed, which is empty.
        av.open(f"{protocol}://127.0.0.1:1/", options={"protocol_whitelist": "none"}).close()
    except av.error.ProtocolNotFoundError:
        return False
    except av.FFmpegError:
        return True
    return True


def known_schemes() -> tuple[str, ...]:
    """All kinds of addresses that can be read here: the built-in ones and those of plugins."""
    built_in = tuple(scheme for scheme in EXAMPLES if scheme not in ("rtmp", "srt") or ffmpeg_has(scheme))
    return built_in + tuple(sorted(set(plugins.installed()) - set(EXAMPLES)))


@dataclass(frozen=True)
class AddressPolicy:
    """What addresses of sources may name.

    `schemes`: kinds of addresses (default: all that can be read here). `folders`: files and pictures must lie there,
    after symbolic links (default: the current folder). `networks`: hosts must lie there (default: everywhere but
    link-local; metadata services of clouds are refused always). Raises InvalidInputError for a scheme that can not be.
    """

    schemes: tuple[str, ...] = field(default_factory=known_schemes)
    folders: tuple[Path, ...] = field(default_factory=lambda: (Path.cwd(),))
    networks: tuple[IpNetwork, ...] = ()

    def __post_init__(self) -> None:
        known = known_schemes()
        for scheme in self.schemes:
            if scheme not in known:
                fix = f"use of these: {', '.join(known)}"
                raise InvalidInputError("no such kind of source here", field="source-scheme", value=scheme, fix=fix)

    @property
    def examples(self) -> str:
        """How the allowed addresses are written, for people."""
        return ", ".join(EXAMPLES.get(scheme, f"{scheme}:… (a plugin)") for scheme in self.schemes)

    def check_path(self, path: Path, shown: str) -> Path:
        """The real place of `path`. Raises InvalidInputError when that is outside the folders."""
        real = path.resolve()
        if not any(real.is_relative_to(folder.resolve()) for folder in self.folders):
            allowed = ", ".join(map(str, self.folders))
            fix = f"use a file under {allowed}, or start the server with --source-folder"
            raise InvalidInputError("this place is not open to sources", field="url", value=shown, fix=fix)
        return real

    def check_address(self, address: IpAddress, shown: str) -> None:
        """Raises InvalidInputError for an address that the server may not connect to."""
        why = forbidden(address, self.networks)
        if why:
            fix = "use the address of a camera, or start the server with --source-network"
            raise InvalidInputError(f"not allowed: {why}", field="url", value=shown, fix=fix)

    def resolve(self, host: str, port: int, shown: str) -> list[IpAddress]:
        """Every address of a host, best first, all of them allowed. It blocks.

        Raises CannotOpenError for a name that nobody knows, InvalidInputError when one of its addresses is forbidden.
        """
        try:
            found = resolve(host, port)
        except (OSError, UnicodeError) as error:
            fix = "check the name, and the server's DNS"
            why = f"nobody knows the host {host}"
            raise CannotOpenError(why, field="url", value=shown, fix=fix) from error
        for address in found:
            self.check_address(address, shown)
        return found


def parse_network(text: str) -> IpNetwork:
    """The network in 10.0.0.0/8 or 10.0.0.7. Raises InvalidInputError."""
    try:
        return ip_network(text)
    except ValueError as error:
        fix = f"write it like 192.168.1.0/24 ({error})"
        raise InvalidInputError("not a network", field="source-network", value=text, fix=fix) from error
