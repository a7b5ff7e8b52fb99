"""Settings as people may see them: a database or a store may be named with its password."""

from __future__ import annotations

import re

# Up to the last @: a password may hold any character, also those that an address should have escaped.
_USER = re.compile(r"(?P<before>://[^:/?#@]*):.*@", re.DOTALL)
_QUERY = re.compile(r"(?P<name>[?&][^=&]*(?:password|secret|token|key)[^=&]*=)[^&]*", re.IGNORECASE)
_OPTION = re.compile(r"(?P<name>\b\w*(?:password|secret|token)\w*\s*=\s*)('[^']*'|\S+)", re.IGNORECASE)


def hidden(value: object) -> str:
    """A value as text, with *** for the passwords in it."""
    text = _USER.sub(r"\g<before>:***@", str(value))
    text = _QUERY.sub(r"\g<name>***", text)
    return text if "://" in text else _OPTION.sub(r"\g<name>***", text)
