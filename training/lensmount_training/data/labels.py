"""What labels a task can have."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lensmount.errors import InvalidInputError
from lensmount_training.data.listing import Kind

MAX_LENGTH = 100
MAX_LABELS = 1000
NAMING = f"a class name has 1 to {MAX_LENGTH} printable characters"
_PARTED = re.compile("[;|]")


def can_be_label(label: str) -> bool:
    """Whether a class may be called so."""
    return 0 < len(label) <= MAX_LENGTH and label.isprintable()


def check_several(labels: tuple[str, ...]) -> None:
    """Raise InvalidInputError for one class, which can be judged by and not trained on."""
    if len(labels) == 1:
        message = "one class only; there is nothing to tell apart"
        fix = "add pictures of another class, such as parts/ok/"
        raise InvalidInputError(message, field="data", value=labels[0], fix=fix)


def check_labels(labels: tuple[str, ...], field: str = "data") -> None:
    """Raise InvalidInputError for labels that a task can not have."""
    if len(labels) > MAX_LABELS:
        message = f"at most {MAX_LABELS} classes"
        fix = "give fewer: the folder above the classes, or another column"
        raise InvalidInputError(message, field=field, value=len(labels), fix=fix)
    for label in labels:
        if not can_be_label(label):
            raise InvalidInputError(NAMING, field=field, value=ascii(label), fix="rename the class")


def read_labels(cells: Sequence[str]) -> tuple[Kind, list[tuple[str, ...] | str]]:
    """The labels of every cell of a column, or why it has none.

    `;` or `|` in any cell part several labels: then every row may have several, or none.
    """
    if not any(map(_PARTED.search, cells)):
        return "single_label", [(cell,) if cell else "no label" for cell in cells]
    parted = [(part.strip() for part in _PARTED.split(cell)) for cell in cells]
    return "multi_label", [tuple(dict.fromkeys(part for part in parts if part)) for parts in parted]
