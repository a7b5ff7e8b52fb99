"""Which hosts the server may connect to.

A name is resolved once, every address that it has is checked, and the connection goes to one of
these, never to what a second look-up might say (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

# Where clouds hand out credentials: AWS, GCP, Azure and others; ECS; EKS; AWS over IPv6; Alibaba; Oracle; Azure.
METADATA = frozenset(
    ipaddress.ip_address(each)
    for each in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
    )
)
# IPv6 addresses with an IPv4 address in their last four bytes: NAT64 (RFC 6052) and IPv4-compatible (RFC 4291).
_CARRIERS = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
_FOUR_BYTES = 0xFFFFFFFF


def literal(host: str) -> IpAddress | None:
    """The address that `host` spells, in any way that the C library takes (0x7f.1, 2130706433); None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def resolve(host: str, port: int) -> list[IpAddress]:
    """The addresses of a host, best first. It blocks. Raises OSError (socket.gaierror) when there is none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(str(where[0])) for *_, where in found))


def connect(addresses: list[IpAddress], port: int, timeout_s: float | None) -> socket.socket:
    """A TCP connection to the first address that takes it. Raises the OSError of the last one."""
    failure = OSError("no address")
    for address in addresses:
        try:
            return socket.create_connection((str(address), port), timeout_s)
        except OSError as error:
            failure = error
    raise failure


def forbidden(address: IpAddress, networks: tuple[IpNetwork, ...]) -> str:
    """Why the server may not connect to `address`; "" when it may. An IPv4 address inside an IPv6 one counts as such.

    Without `networks`: everywhere but link-local. With them: only there. Metadata services, multicast, broadcast and
    unspecified addresses: never.
    """
    inner = _unwrapped(address)
    if inner in METADATA:
        return f"{inner} is a metadata service of a cloud"
    if inner.is_unspecified or inner.is_multicast or inner == IPv4Address(_FOUR_BYTES):
        return f"{inner} is not the address of one host"
    if networks:
        inside = any(inner.version == network.version and inner in network for network in networks)
        return "" if inside else f"{inner} is outside the networks that this server may reach"
    return f"{inner} is link-local" if inner.is_link_local else ""


def _unwrapped(address: IpAddress) -> IpAddress:
    if isinstance(address, IPv4Address):
        return address
    plain = IPv6Address(int(address))  # without a scope
    if plain.ipv4_mapped or plain.sixtofour:
        return plain.ipv4_mapped or plain.sixtofour or plain
    if plain.teredo:
        return plain.teredo[1]
    if int(plain) > 1 and any(plain in network for network in _CARRIERS):  # :: and ::1 are themselves
        return IPv4Address(int(plain) & _FOUR_BYTES)
    return plain
