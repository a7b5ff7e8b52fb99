"""The exception tree: one class for each way a call can fail.

Everything that lensmount raises on purpose is a `LensmountError`. Each carries
the field that is wrong, the value that came and the fix, and each class knows the
gRPC status code that stands for it, so that an error raised in the server arrives
in the client as the same class with the same three facts.

    LensmountError
     ├─ InvalidInputError    INVALID_ARGUMENT     a value that can never work
     ├─ TooLargeError        RESOURCE_EXHAUSTED   beyond a limit of the server
     ├─ NotFoundError        NOT_FOUND            no such task, version or source
     ├─ AlreadyExistsError   ALREADY_EXISTS       the name is taken
     ├─ IncompatibleError    FAILED_PRECONDITION  valid, but not for this server
     │   └─ MissingExtraError                     needs an extra that is not installed
     ├─ ConflictError        ABORTED              somebody else was first
     ├─ DeadlineError        DEADLINE_EXCEEDED    it took too long
     ├─ UnavailableError     UNAVAILABLE          no server there, or it is stopping
     ├─ UnimplementedError   UNIMPLEMENTED        a later release does this
     └─ ServerError          INTERNAL             a defect of the server
"""

from __future__ import annotations

import grpc


class LensmountError(Exception):
    """Base of every error that lensmount raises on purpose.

    `field` names what is wrong (a request field, a file, a tensor), `value` is what
    came, `fix` says what to do; each is "" where it does not apply. All are shortened:
    names that somebody sent are among them, of any length.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN

    def __init__(self, message: str, *, field: str = "", value: object = "", fix: str = "") -> None:
        self.message = _shorten(message, 1000)
        self.field = _shorten(field, 300)
        self.value = _shorten(value)
        self.fix = _shorten(fix, 500)
        super().__init__(self.message)

    def __str__(self) -> str:
        got = f" (got {self.value})" if self.value else ""
        where = f"{self.field}: " if self.field else ""
        fix = f" Fix: {self.fix}" if self.fix else ""
        return f"{where}{self.message}{got}.{fix}"


class InvalidInputError(LensmountError):
    """A value that can never work, whatever the server's state."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class TooLargeError(LensmountError):
    """A message, picture or package beyond a limit of the server."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class NotFoundError(LensmountError):
    """No task, version, alias or source of that name."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(LensmountError):
    """The name is taken."""

    code = grpc.StatusCode.ALREADY_EXISTS


class IncompatibleError(LensmountError):
    """Valid by itself, but not for this server: another backbone, a failed golden check."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class MissingExtraError(IncompatibleError):
    """Needs an extra of the distribution that is not installed; the fix is the pip command."""


class ConflictError(LensmountError):
    """Somebody else changed it first; read again and decide."""

    code = grpc.StatusCode.ABORTED


class DeadlineError(LensmountError):
    """The call's deadline passed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class UnavailableError(LensmountError):
    """No server answers at the address, or it is stopping."""

    code = grpc.StatusCode.UNAVAILABLE


class UnimplementedError(LensmountError):
    """The call exists in the contract and comes with a later release."""

    code = grpc.StatusCode.UNIMPLEMENTED


class ServerError(LensmountError):
    """A defect of the server; its log has the trace under the id in the message."""

    code = grpc.StatusCode.INTERNAL


def error_class(code: grpc.StatusCode) -> type[LensmountError]:
    """The class that stands for a status code; `LensmountError` itself when none does."""
    return next((kind for kind in LensmountError.__subclasses__() if kind.code == code), LensmountError)


def _shorten(value: object, limit: int = 120) -> str:
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
