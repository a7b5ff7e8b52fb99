"""JSON files: read whole, and held against what their format promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from lensmount.errors import InvalidInputError

T = TypeVar("T")


def read_json(path: Path) -> object:
    """The document in a file; raises InvalidInputError for what is no JSON, or can not be read."""
    fix = "export the file again"
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except RecursionError as error:
        raise InvalidInputError("the file is nested too deeply", field="data", value=path, fix=fix) from error
    except ValueError as error:
        raise InvalidInputError(f"the file is not JSON: {error}", field="data", value=path, fix=fix) from error
    except OSError as error:
        fix = "look at its permissions"
        raise InvalidInputError(f"it can not be read: {error.strerror}", field="data", value=path, fix=fix) from error


def understood(kind: type[T], document: object, form: str) -> T:
    """The document as a `kind`; raises InvalidInputError that names the first field that is none of `form`."""
    try:
        return TypeAdapter(kind).validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"not {form}: {first['msg']}"
        raise InvalidInputError(message, field="data", value=where, fix="export the file again") from error
