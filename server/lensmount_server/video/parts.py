"""The parts of an address, as people write them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.,-]*):")


class RefusedError(Exception):
    """Why an address is refused."""


def existing(path: str) -> Path:
    """The absolute path. Raises RefusedError when nothing is there."""
    place = Path(path).absolute()
    try:
        place.stat()
    except OSError as error:
        raise RefusedError(f"no such file on the server: {error.strerror}") from error
    except ValueError as error:
        raise RefusedError("not a path") from error
    return place


def path_in(url: str, kind: str) -> str:
    """The path in `PATH`, `kind:PATH` or `kind:///PATH`. Raises RefusedError for one on another host."""
    if not SCHEME.match(url):
        return url
    start = len(kind) + 1
    if not url.startswith("//", start):
        return url[start:]
    parts = split(url)
    if parts.netloc not in ("", "localhost"):
        raise RefusedError(f"a {kind} address has no host")
    return unquote(parts.path)


def numbers(query: str, allowed: dict[str, int]) -> dict[str, str]:
    """The numbers in a query, each above 0 and up to what is allowed for its name. Raises RefusedError."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in given.items():
        if name not in allowed:
            raise RefusedError(f"?{name}= is not taken here, only {', '.join(allowed)}")
        if not re.fullmatch(r"\d{1,5}(\.\d{1,3})?", value) or not 0 < float(value) <= allowed[name]:
            raise RefusedError(f"?{name}= must be a number above 0, to {allowed[name]}")
    return given


def split(url: str) -> SplitResult:
    """Its parts, with a port that is one. Raises RefusedError."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # read for its check
    except ValueError as error:
        raise RefusedError("not an address") from error
    return parts
