"""Errors as clients of Triton expect them: its status codes, and everything that is to be said in one sentence.

`tritonclient` shows the message of a status and nothing of its details, so field, value and fix are part of it.
"""

from __future__ import annotations

from typing import Any

from lensmount.errors import IncompatibleError, LensmountError, TooLargeError, UnavailableError
from lensmount.status import to_status

# gRPC refuses more than 8 KiB of metadata, in which the sentence comes twice.
MAX_SENTENCE = 900


def sentence(error: LensmountError) -> str:
    """All that an error says."""
    text = str(error)
    data = text.encode("utf-8", "replace")
    return data.decode() if len(data) <= MAX_SENTENCE else data[:MAX_SENTENCE].decode("utf-8", "ignore") + "…"


def status(error: LensmountError) -> Any:
    """A google.rpc.Status with the sentence as its message."""
    made = to_status(error)
    made.message = sentence(error)
    return made


def as_triton(error: LensmountError) -> LensmountError:
    """An error of an inference, in the class whose code Triton gives for it.

    An adapter that can not answer here is a model that is not ready, and a queue that is full is a server that is
    busy: UNAVAILABLE both, which clients may try again.
    """
    if isinstance(error, IncompatibleError):
        return UnavailableError(error.message, field=error.field, value=error.value, fix=error.fix)
    if isinstance(error, TooLargeError) and not error.field:
        fix = "have fewer requests under way, and send this one again when some of them are answered"
        return UnavailableError(error.message, value=error.value, fix=fix)
    return error
