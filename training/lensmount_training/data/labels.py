"""What labels a task can have."""

from __future__ import annotations

from lensmount.errors import InvalidInputError

MAX_LENGTH = 100
MAX_LABELS = 1000


def check_labels(labels: tuple[str, ...], field: str = "data") -> None:
    """Raise InvalidInputError for labels that a task can not have."""
    if len(labels) == 1:
        message = "one class only; there is nothing to tell apart"
        fix = "add pictures of another class, such as parts/ok/"
        raise InvalidInputError(message, field=field, value=labels[0], fix=fix)
    if len(labels) > MAX_LABELS:
        message = f"at most {MAX_LABELS} classes"
        raise InvalidInputError(message, field=field, value=len(labels), fix="give the folder above the classes")
    for label in labels:
        if not label or len(label) > MAX_LENGTH or not label.isprintable():
            message = f"a class name has 1 to {MAX_LENGTH} printable characters"
            raise InvalidInputError(message, field=field, value=ascii(label), fix="rename the class")
