"""Parameters of requests, inputs and outputs: each of one of five kinds, any of which a client may have sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lensmount.errors import InvalidInputError
from lensmount.terms import MAX_DEADLINE_MS, MAX_PRIORITY
from lensmount_server.scheduling import Terms

# The scheduler's priorities, counted from the highest.
LEVELS = 2 * MAX_PRIORITY + 1

Parameters = Mapping[str, Any]


def whole(parameters: Parameters, name: str, field: str) -> int | None:
    """A whole number, None where it is not given; raises InvalidInputError for another kind."""
    if name not in parameters:
        return None
    given = parameters[name]
    kind = given.WhichOneof("parameter_choice")
    if kind not in {"int64_param", "uint64_param"}:
        fix = "give it as int64_param or uint64_param"
        raise InvalidInputError("not a whole number", field=f"{field}.{name}", value=kind or "nothing", fix=fix)
    return int(getattr(given, kind))


def text(parameters: Parameters, name: str, field: str) -> str | None:
    """A string, None where it is not given; raises InvalidInputError for another kind."""
    if name not in parameters:
        return None
    given = parameters[name]
    kind = given.WhichOneof("parameter_choice")
    if kind != "string_param":
        fix = "give it as string_param"
        raise InvalidInputError("not a string", field=f"{field}.{name}", value=kind or "nothing", fix=fix)
    return str(given.string_param)


def terms(parameters: Parameters, source: str, left_s: float | None) -> Terms:
    """How a request is scheduled: `timeout` in microseconds (0: none), no longer than the call's own, and `priority`.

    A priority is as Triton has it: 1 goes first, larger numbers later, 0 is the usual one. Raises InvalidInputError.
    """
    if not parameters:
        return Terms(source, 0, left_s)
    timeout = whole(parameters, "timeout", "parameters") or 0
    if not 0 <= timeout <= MAX_DEADLINE_MS * 1000:
        fix = f"give microseconds from 1 to {MAX_DEADLINE_MS * 1000:,}, or 0 for none"
        raise InvalidInputError("not a timeout", field="parameters.timeout", value=timeout, fix=fix)
    limits = [each for each in (left_s, timeout / 1e6 or None) if each is not None]
    return Terms(source, _priority(parameters), min(limits, default=None))


def _priority(parameters: Parameters) -> int:
    """Of the scheduler's, where the highest goes first."""
    given = whole(parameters, "priority", "parameters") or 0
    if not 0 <= given <= LEVELS:
        fix = f"give 1 (goes first) to {LEVELS}, or 0 for the usual one, which is {MAX_PRIORITY + 1}"
        raise InvalidInputError("not a priority", field="parameters.priority", value=given, fix=fix)
    return MAX_PRIORITY + 1 - given if given else 0
