"""`audit.html` and `audit.json` in a folder that is there whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lensmount.cli.output import plain
from lensmount.errors import InvalidInputError
from lensmount_adapters.scratch import beside
from lensmount_training.audit.auditing import Audit

PAGE, DOCUMENT = "audit.html", "audit.json"


def document(audit: Audit, *, strict: bool = False) -> dict[str, Any]:
    """The audit in JSON's types."""
    duplicates = audit.parts.duplicates
    lists = {
        "sets": [sorted(files) for files in duplicates.sets],
        "scenes": [sorted(files) for files in duplicates.scenes],
        "identical": sorted(duplicates.identical),
    }
    whole: dict[str, Any] = plain(audit)
    whole["parts"]["duplicates"] = lists
    return {"verdict": audit.verdict, "exit_code": audit.exit_code(strict=strict), **whole}


def encoded(document: dict[str, Any]) -> str:
    """One line of ASCII: names that are no text are escaped."""
    return json.dumps(document)


def check_out(out: Path) -> None:
    """Raise InvalidInputError for a place that can not be written, or that holds something that no audit wrote."""
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - {PAGE, DOCUMENT}):
        message, fix = "holds something that no audit wrote", "give --out another folder"
        raise InvalidInputError(message, field="out", value=out, fix=fix)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"can not be written: {error.strerror}"
        raise InvalidInputError(message, field="out", value=out, fix="give another --out") from error


def write(out: Path, page: bytes, text: str) -> None:
    """Write both files; an earlier audit there goes when the new one is whole.

    Raises InvalidInputError when the disk can not hold them, or the folder holds something that no audit wrote.
    """
    check_out(out)
    try:
        with beside(out) as scratch:
            partial = scratch / "new"
            partial.mkdir()
            (partial / PAGE).write_bytes(page)
            (partial / DOCUMENT).write_text(text + "\n")
            if out.exists():
                out.rename(scratch / "old")
            partial.rename(out)
    except OSError as error:
        message = f"can not be written: {error.strerror}"
        raise InvalidInputError(
            message, field="out", value=out, fix="free some space, or give another --out"
        ) from error
