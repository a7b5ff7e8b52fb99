"""Whatever came, an error is short enough to be read and sent."""

from __future__ import annotations

import pytest

from lensmount.errors import InvalidInputError


@pytest.mark.parametrize("part", ["message", "field", "value", "fix"])
def test_names_of_any_length_are_shortened(part: str) -> None:
    parts = {"message": "wrong", "field": "file: name", "value": "3", "fix": "send another"}
    long = "a" * 100_000
    error = InvalidInputError(**{**parts, part: long})
    told = {name: getattr(error, name) for name in parts}
    assert told.pop(part) == f"{long[: len(getattr(error, part)) - 1]}…"
    assert told == {name: text for name, text in parts.items() if name != part}
    assert len(str(error)) < 1200
    assert str(error.args[0]) == error.message
