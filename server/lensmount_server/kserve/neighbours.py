"""Which user of this machine is at the other end of a connection over loopback.

The kernel knows (sock_diag(7)): the client's socket is looked up by its two addresses, which takes some ten
microseconds. Nobody can say so of a client on another machine, or of one behind a proxy.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from urllib.parse import unquote

from lensmount.errors import InvalidInputError

_SOCK_DIAG = 4
_BY_FAMILY, _REQUEST, _ERROR = 20, 1, 2
_ANY = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_ASKED = struct.Struct("=BBBxI")
_PORTS = struct.Struct("!HH")
_REST = struct.Struct("=III")
# Where the user stands in what comes back: behind the header, four bytes, the socket's identity and three numbers.
_UID_AT = _HEADER.size + 4 + 48 + 12
_PEER = re.compile(r"ipv[46]:\[?([0-9a-fA-F:.]+)\]?:([0-9]{1,5})")


class Caller:
    """Who asks: the address as gRPC tells it, and the user behind it."""

    __slots__ = ("_own_port", "_user", "peer")

    def __init__(self, peer: str, own_port: int) -> None:
        self.peer = peer
        self._own_port = own_port
        self._user: int | None = None

    def user(self) -> int:
        """The user's id, looked up once: a call ends with its connection. Raises as `user_behind`."""
        if self._user is None:
            self._user = user_behind(self.peer, self._own_port)
        return self._user


def user_behind(peer: str, own_port: int) -> int:
    """The user id of whoever opened the connection from `peer` (as gRPC tells it) to `own_port`.

    Raises InvalidInputError where that is not a process on this machine.
    """
    uid = _uid(peer, own_port)
    if uid is None:
        fix = "send the tensors in the message; shared memory is for clients that connect over 127.0.0.1 or [::1]"
        raise InvalidInputError("shared memory is for clients on this machine", field="peer", value=peer, fix=fix)
    return uid


def _uid(peer: str, own_port: int) -> int | None:
    found = _PEER.fullmatch(unquote(peer))
    if found is None:
        return None
    try:
        address = ipaddress.ip_address(found[1])
    except ValueError:
        return None
    address = getattr(address, "ipv4_mapped", None) or address
    if not address.is_loopback:
        return None
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    packed = address.packed.ljust(16, b"\0")
    body = _ASKED.pack(family, socket.IPPROTO_TCP, 0, _ANY) + _PORTS.pack(int(found[2]) & 0xFFFF, own_port)
    return _ask(body + packed + packed + _REST.pack(0, _ANY, _ANY))


def _ask(body: bytes) -> int | None:
    header = _HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as kernel:
            kernel.send(header + body)
            data = kernel.recv(4096, socket.MSG_DONTWAIT)
    except OSError:
        return None
    if len(data) < _UID_AT + 4 or _HEADER.unpack_from(data)[1] != _BY_FAMILY:
        return None
    uid: int = struct.unpack_from("=I", data, _UID_AT)[0]
    return uid
