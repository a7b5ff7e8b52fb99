"""What a setting may be, told once: pydantic checks it from every source, click writes it into the help.

A number with limits and a choice need nothing of their own: `click_type` reads them from the annotation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import click
from pydantic import AfterValidator, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

from lensmount.errors import LensmountError

# The type of an error that `place` or `checked` found: its context has our own words, and the fix where there is one.
OURS = "lensmount"


@dataclass(frozen=True)
class Written:
    """How the help writes a setting; `default` stands for one that is not a constant."""

    metavar: str = ""
    default: str = ""


@dataclass(frozen=True)
class OnDisk:
    """A path that click's own type takes, whichever source it came from."""

    kind: click.Path

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema of a path, and click's rule behind it."""
        return no_info_after_validator_function(self._check, handler(source))

    def _check(self, path: Path) -> object:
        try:
            return self.kind.convert(str(path), None, None)
        except click.BadParameter as error:
            raise _ours(error.message.rstrip(".")) from None


def checked(parse: Callable[[Any], object]) -> AfterValidator:
    """Keep what `parse` takes; its LensmountError becomes pydantic's, with its value and its fix."""

    def check(value: object) -> object:
        try:
            parse(value)
        except LensmountError as error:
            raise _ours(error.message, error.fix, error.value) from None
        return value

    return AfterValidator(check)


def _ours(message: str, fix: str = "", value: str = "") -> PydanticCustomError:
    return PydanticCustomError(OURS, "{message}", {"message": message, "fix": fix, "value": value})


def repeated(field: FieldInfo) -> bool:
    """Whether a setting is a list: a flag that may be given several times."""
    return get_origin(field.annotation) is tuple


def click_type(field: FieldInfo) -> click.ParamType[Any]:
    """What click checks and completes for the flag of a setting, for one of them where it is a list."""
    return _click_type(field.annotation, field.metadata)


def _click_type(annotation: Any, metadata: list[Any]) -> click.ParamType[Any]:
    origin, inner = get_origin(annotation), [each for each in get_args(annotation) if each not in {NoneType, Ellipsis}]
    if origin is Annotated:
        return _click_type(inner[0], inner[1:])
    if origin is Literal:
        return click.Choice(inner)
    if inner:  # a list, or what may be None
        return _click_type(inner[0], metadata)
    if annotation is int:
        return click.IntRange(_limit(metadata, "ge"), _limit(metadata, "le"))
    return next((each.kind for each in metadata if isinstance(each, OnDisk)), click.STRING)


def _limit(metadata: list[Any], name: str) -> int | None:
    return next((getattr(each, name) for each in metadata if hasattr(each, name)), None)


def written(field: FieldInfo) -> Written:
    """How a setting is written for people."""
    return next((each for each in field.metadata if isinstance(each, Written)), Written())


def expects(field: FieldInfo) -> str:
    """What a setting takes, for the fix of an error: "a whole number from 1 to 256"."""
    one = _expects(click_type(field))
    return f"a list, [{one}, …]" if repeated(field) else one


def _expects(kind: click.ParamType[Any]) -> str:
    if isinstance(kind, click.Choice):
        return f"one of {', '.join(map(str, kind.choices))}"
    if isinstance(kind, click.IntRange):
        least = f" from {kind.min}" if kind.min is not None else ""
        return f"a whole number{least}{f' to {kind.max}' if kind.max is not None else ' on'}"
    if isinstance(kind, click.Path):
        what = "a folder" if kind.dir_okay else "a file"
        return f"{what} that is there" if kind.exists else what
    return "a text"
