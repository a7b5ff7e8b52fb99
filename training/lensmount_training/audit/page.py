"""The audit as one HTML file: for people who decide, without JavaScript, light and dark, nothing to download.

Labels and file names are somebody else's strings: the template escapes everything.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import Environment, PackageLoader, StrictUndefined

from lensmount_training.audit.auditing import Audit
from lensmount_training.audit.findings import MOST_DUPLICATES, MOST_LABEL_ERRORS, counted
from lensmount_training.audit.thumbnails import thumbnails
from lensmount_training.context import Context
from lensmount_training.data.dataset import Dataset

SHOWN = 12
DOUBTED = 20
MARKS = {"error": "look before training", "warning": "worth a look", "note": "good to know"}


def page(audit: Audit, dataset: Dataset, context: Context) -> bytes:
    """The page in UTF-8; what is no text in a file name is shown as its escape."""
    pictures = thumbnails(dataset, tuple(dict.fromkeys(_shown(audit))), context)
    environment = Environment(
        loader=PackageLoader("lensmount_training.audit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.j2").render(
        audit=audit,
        parts=audit.parts,
        headline=headline(audit),
        figures=tuple(_figures(audit)),
        pictures=pictures,
        marks=MARKS,
        shown=SHOWN,
        doubted=DOUBTED,
        largest=max(own.pictures for own in audit.parts.balance.classes),
    )
    return text.encode("utf-8", "backslashreplace")


def headline(audit: Audit) -> str:
    """The verdict in a sentence."""
    errors = sum(finding.level == "error" for finding in audit.findings)
    warnings = sum(finding.level == "warning" for finding in audit.findings)
    if audit.verdict == "stop":
        return f"Do not train yet: {counted(errors, 'thing')} must be looked at first."
    if audit.verdict == "look":
        return f"Fit to train. {counted(warnings, 'thing is', 'things are')} worth a look."
    return "Fit to train. Nothing was found that stands in the way."


def _figures(audit: Audit) -> Iterator[tuple[str, str, str]]:
    """Value, name, and what it should be."""
    parts = audit.parts
    copies = sum(bool(skip.copy_of) for skip in audit.skipped)
    surplus = copies + parts.duplicates.surplus
    likely = len(parts.judgement.likely)
    yield f"{audit.pictures:,}", "pictures", f"{counted(len(audit.labels), 'class', 'classes')}"
    yield f"{parts.balance.ratio:.1f} ×", "largest class to smallest", "fine up to 5 ×"
    yield f"{likely / audit.pictures:.1%}", "labels probably wrong", f"fine up to {MOST_LABEL_ERRORS:.0%}"
    yield f"{surplus / (audit.pictures + copies):.1%}", "pictures that add nothing", f"fine up to {MOST_DUPLICATES:.0%}"
    yield f"{parts.judgement.accuracy:.0%}", "recognised by a simple classifier", f"on {audit.backbone}"
    yield f"{parts.distance.value:.2f}", "distance from photographs", parts.distance.word


def _shown(audit: Audit) -> Iterator[str]:
    """The files whose thumbnails the page needs."""
    yield from audit.look_first
    for finding in audit.findings:
        yield from finding.files[:SHOWN]
    for files in audit.parts.duplicates.sets[:SHOWN]:
        yield from sorted(files)[:SHOWN]
    for issue in audit.parts.judgement.issues[:DOUBTED]:
        yield issue.file
    for sheet in audit.sheets:
        yield from (shot.file for shot in sheet.shots)
