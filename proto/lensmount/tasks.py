"""Which task shall answer, with which adapter version and how often: the one parser for `defect@canary/5fps`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lensmount.errors import InvalidInputError
from lensmount.terms import rate_number

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)fps")
_FORMS = "write defect, defect@canary (an alias) or defect:3 (a version); defect/5fps looks at 5 frames a second"
_MAX_VERSION = 2**32 - 1


@dataclass(frozen=True, slots=True)
class TaskRef:
    """A task and what of it is asked for: an alias that is followed, or a pinned version.

    `version` 0 follows `alias`; any other number pins that version and the alias does not count.
    On a stream the task looks at no more than `max_fps` frames a second, at every frame when it is 0.
    """

    task: str
    alias: str = "live"
    version: int = 0
    max_fps: float = 0.0

    @classmethod
    def parse(cls, text: str) -> TaskRef:
        """Read `task`, `task@alias` or `task:version`, each with or without `/5fps` behind it.

        InvalidInputError says which part is wrong.
        """
        if "@" in text and ":" in text:
            raise _wrong("an alias and a version exclude each other", text)
        ref, slash, rate = text.partition("/")
        task, at, alias = ref.partition("@")
        task, colon, version = task.partition(":")
        _check_name("task", task, text)
        if at:
            _check_name("alias", alias, text)
        number = _version(version, text) if colon else 0
        return cls(task, alias or "live", number, _rate(rate, text) if slash else 0.0)

    def __str__(self) -> str:
        rate = f"/{_digits(self.max_fps)}fps" if self.max_fps else ""
        if self.version:
            return f"{self.task}:{self.version}{rate}"
        return f"{self.task}{rate}" if self.alias == "live" else f"{self.task}@{self.alias}{rate}"


# What a call takes for its tasks: one, or several, as text or parsed.
Tasks = str | TaskRef | Iterable[str | TaskRef]


def task_refs(tasks: Tasks) -> tuple[TaskRef, ...]:
    """Every task of a call, at least one; InvalidInputError otherwise."""
    several = (tasks,) if isinstance(tasks, str | TaskRef) else tuple(tasks)
    if not several:
        raise InvalidInputError("no task given", field="tasks", fix='name at least one, for example tasks=["defect"]')
    return tuple(task_ref(task) for task in several)


def task_ref(task: str | TaskRef) -> TaskRef:
    """One task, parsed where it is text."""
    if isinstance(task, TaskRef):
        return task
    if not isinstance(task, str):
        raise _wrong(f"text expected, not {type(task).__name__}", task)
    return TaskRef.parse(task)


def _check_name(part: str, name: str, text: str) -> None:
    if not _NAME.fullmatch(name):
        raise _wrong(f"the {part} is 1 to 64 of a-z A-Z 0-9 . _ - and starts with a letter or a digit", text)


def _version(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdecimal() and 0 < int(digits) <= _MAX_VERSION):
        raise _wrong("a version is a whole number from 1", text)
    return int(digits)


def _rate(rate: str, text: str) -> float:
    match = _RATE.fullmatch(rate)
    if match is None or not float(match[1]):
        raise _wrong("a rate is a number of frames a second, as in 5fps or 0.5fps", text)
    return rate_number(float(match[1]))


def _digits(number: float) -> str:
    return repr(float(number)).removesuffix(".0")


def _wrong(message: str, text: object) -> InvalidInputError:
    return InvalidInputError(message, field="tasks", value=text or '""', fix=_FORMS)
