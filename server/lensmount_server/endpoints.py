"""HOST:PORT."""

from __future__ import annotations

from lensmount.errors import InvalidInputError


def parse_address(address: str, field_name: str, example: str) -> tuple[str, int]:
    """The two parts of HOST:PORT; raises InvalidInputError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        fix = f"give HOST:PORT, for example {example}"
        raise InvalidInputError("not an address", field=field_name, value=address, fix=fix)
    return host, int(port)
