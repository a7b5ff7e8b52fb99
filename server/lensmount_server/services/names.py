"""Names, notes, tags and page tokens, as requests hold them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from lensmount.errors import InvalidInputError, TooLargeError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_PAGE = 1000
MAX_SEQUENCE = 2**63 - 1
MAX_NOTE = 200
MAX_TAGS = 64


def checked(text: str, field: str) -> str:
    """A name; raises InvalidInputError."""
    if not NAME.fullmatch(text):
        fix = "use 1 to 64 of A-Z a-z 0-9 . _ - and start with a letter or digit"
        raise InvalidInputError("not a name", field=field, value=text, fix=fix)
    return text


def note(text: str, field: str) -> str:
    """Words for people; raises InvalidInputError."""
    if len(text) > MAX_NOTE or not text.isprintable():
        fix = f"use up to {MAX_NOTE} printable characters"
        raise InvalidInputError("not a note", field=field, value=text, fix=fix)
    return text


def tags(given: Mapping[str, str], field: str) -> dict[str, str]:
    """Tags by key; raises InvalidInputError or TooLargeError."""
    check_count(given, field)
    return {checked(key, field): note(value, f"{field}.{key}") for key, value in given.items()}


def keys(given: Collection[str], field: str) -> tuple[str, ...]:
    """Keys of tags; raises InvalidInputError or TooLargeError."""
    check_count(given, field)
    return tuple([checked(key, field) for key in given])


def check_count(given: Collection[str], field: str) -> None:
    """Raise TooLargeError for more tags than a version may have."""
    if len(given) > MAX_TAGS:
        fix = f"give at most {MAX_TAGS}; a version has no more"
        raise TooLargeError("too many tags", field=field, value=len(given), fix=fix)


def page(size: int, token: str) -> tuple[int, int | None]:
    """How many are asked for, and the number before which they are; raises InvalidInputError."""
    if size > MAX_PAGE:
        fix = f"ask for 1 to {MAX_PAGE}"
        raise InvalidInputError("too large a page", field="page_size", value=size, fix=fix)
    if not token:
        return size or 100, None
    if not re.fullmatch(r"[0-9]{1,19}", token) or int(token) > MAX_SEQUENCE:
        fix = "give next_page_token of the page before, or nothing"
        raise InvalidInputError("not a page token", field="page_token", value=token, fix=fix)
    return size or 100, int(token)
