"""Where settings come from, weakest last: flags, the environment, a file. Each is read and judged by itself."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource

from lensmount.errors import InvalidInputError
from lensmount_server.settings.hiding import hidden
from lensmount_server.settings.kinds import OURS, click_type, expects, repeated
from lensmount_server.settings.model import PREFIX, Settings

FIELDS: Mapping[str, FieldInfo] = Settings.model_fields
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
# Variables of ours that are no setting of a server: the file's name, the client's, the bench's, the test suite's.
OTHERS = frozenset(PREFIX + name for name in ("CONFIG", "SERVER", "KILLS", "TEST_DATA", "TRITON", "UPDATE_CONTRACT"))
# What Kubernetes tells every container about a service that is called lensmount-something; its address is a URL, and a
# number under the same name is somebody's mistake.
_SERVICE_LINK = re.compile(
    r"\w+_(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=\d+|PORT(_\d+_(TCP|UDP|SCTP))?=\w+://.*"
    r"|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)=.*)"
)
_WORDS = {
    "int_type": "not a whole number",
    "greater_than_equal": "too small",
    "less_than_equal": "too large",
    "string_type": "not a text",
    "path_type": "not a text",
    "tuple_type": "not a list",
    "literal_error": "no such choice",
}
_NO_SECTIONS = "there are no sections: write each setting on a line of its own, NAME = VALUE"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a source of settings; `setting` is "" where it is no setting."""

    setting: str
    where: str
    message: str
    value: str
    fix: str

    def error(self, more: int = 0) -> InvalidInputError:
        """The error that stands for this problem and `more` others."""
        field = f"{self.setting} ({self.where})" if self.setting else self.where
        others = f"; {more} more: lensmount config check lists all" if more else ""
        return InvalidInputError(self.message, field=field, value=self.value, fix=self.fix + others)


@dataclass(frozen=True)
class Layer:
    """What one source says: values by setting, where each is written, and what of it is no setting."""

    kind: str
    values: Mapping[str, Any]
    where: Callable[[str], str]
    unknown: tuple[Problem, ...] = ()

    def problems(self) -> list[Problem]:
        """All that is wrong here, whether or not a stronger source says something else."""
        try:
            Settings(**self.values)
        except ValidationError as error:
            return [*self.unknown, *(self._problem(details) for details in error.errors())]
        return [*self.unknown]

    def _problem(self, details: ErrorDetails) -> Problem:
        name, context = str(details["loc"][0]), details.get("ctx", {})
        ours = details["type"] == OURS
        message = context["message"] if ours else _WORDS.get(details["type"], details["msg"])
        # Our own errors say what of the value is wrong, if they may.
        value = context["value"] if ours else hidden(repr(details["input"]))
        fix = (ours and context["fix"]) or f"give {expects(FIELDS[name])}"
        return Problem(name, self.where(name), message, value, fix)


def flag(name: str) -> str:
    """A setting as it is given on the command line."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """A setting as it is given in the environment."""
    return PREFIX + name.upper()


def flags(given: Mapping[str, Any]) -> Layer:
    """What was given on the command line."""
    return Layer("flag", given, flag)


def environment() -> Layer:
    """What the environment says; lists are written with commas."""
    unknown = [name for name, value in os.environ.items() if _looks_like_a_setting(name, value)]
    problems = tuple(
        Problem("", name, "no such setting", "", _nearest(name, variable, ("config", "server")))
        for name in sorted(unknown)
    )
    return Layer("environment", _Environment(Settings)(), variable, problems)


def file(path: Path) -> Layer:
    """What a TOML file says; one that can not be read says nothing, and that is its problem."""
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        fix = f"give --config or {CONFIG_VARIABLE} a file that can be read"
        return Layer("file", {}, str, (Problem("", str(path), error.strerror or "can not be read", "", fix),))
    except ValueError as error:  # neither TOML nor UTF-8
        fix = "see lensmount config show --toml"
        return Layer("file", {}, str, (Problem("", str(path), f"not TOML: {error}", "", fix),))
    lines = _lines(text)

    def where(name: str) -> str:
        return f"{path}:{lines[name]}" if name in lines else str(path)

    unknown = tuple(_unknown(name, where(name), value) for name, value in values.items() if name not in FIELDS)
    return Layer("file", {name: value for name, value in values.items() if name in FIELDS}, where, unknown)


def _unknown(name: str, where: str, value: object) -> Problem:
    is_section = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, dict) for each in value))
    fix = _NO_SECTIONS if is_section else _nearest(name, str)
    return Problem("", where, "no such setting", name, fix)


def _lines(text: str) -> dict[str, int]:
    """The line of each key, where it is written plainly."""
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        key = re.match(r"""\s*\[*\s*["']?([\w-]+)["']?\s*[=.\]]""", line)
        if key:
            found.setdefault(key[1], number)
    return found


def _looks_like_a_setting(name: str, value: str) -> bool:
    """Whether somebody means a setting that is none; names are in capitals, and others are told so."""
    known = name in OTHERS or name in map(variable, FIELDS)
    ours = name.upper().startswith(PREFIX)
    return ours and bool(value) and not known and not _SERVICE_LINK.fullmatch(f"{name}={value}")


def _nearest(name: str, written: Callable[[str], str], others: Iterable[str] = ()) -> str:
    word = name.upper().removeprefix(PREFIX).lower().replace("-", "_")
    near = difflib.get_close_matches(word, [*FIELDS, *others], 1)
    return f"did you mean {written(near[0])}?" if near else "lensmount config show lists all settings"


class _Environment(EnvSettingsSource):
    """pydantic-settings' reader, with commas for lists and numbers for what only looks like one."""

    def prepare_field_value(self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool) -> Any:
        """A list, a number where it is one, else the text; None where there is none."""
        del field_name, value_is_complex
        if value is None:
            return None
        if repeated(field):
            return [part.strip() for part in value.split(",") if part.strip()]
        is_number = isinstance(click_type(field), click.IntRange) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value)
        return int(value) if is_number else value
