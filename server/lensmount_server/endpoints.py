"""HOST:PORT."""

from __future__ import annotations

from lensmount.errors import InvalidInputError


def parse_address(address: str, field_name: str, example: str) -> tuple[str, int]:
    """The two parts of HOST:PORT; raises InvalidInputError."""
    host, _, port = address.rpartition(":")
    if "/" in address:
        _, scheme, rest = address.rpartition("://")
        plain = rest.partition("/")[0] if scheme else address.partition("/")[0]
        fix = f"write {plain if _fits(plain) else example}: host and port alone, no scheme and no path"
        raise InvalidInputError("an address, not a URL, is wanted", field=field_name, value=address, fix=fix)
    if not _fits(address):
        fix = f"give HOST:PORT, for example {example}"
        raise InvalidInputError("not an address", field=field_name, value=address, fix=fix)
    return host, int(port)


def _fits(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and int(port) <= 65535
