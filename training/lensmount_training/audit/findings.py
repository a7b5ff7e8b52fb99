"""What the audit found, each as a sentence that says what to do, and how grave it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lensmount_training.audit.balance import LARGEST_RATIO, MINIMUM, Balance
from lensmount_training.audit.domain import Distance
from lensmount_training.audit.duplicates import Duplicates
from lensmount_training.audit.labels import Judgement
from lensmount_training.audit.leakage import Leak, Leakage
from lensmount_training.audit.looks import WORDS, Looks
from lensmount_training.data.dataset import Dataset

MOST_LABEL_ERRORS = 0.05
MOST_DUPLICATES = 0.2
# Below it a classifier's doubts say more about the classifier than about the labels.
LEAST_ACCURACY = 0.6
# From it on, features tell these classes apart however unlike photographs the pictures are.
GOOD_ACCURACY = 0.9
# A fault that most of one class have and next to nobody else is what a model may learn in place of the class.
SHORTCUT, ELSEWHERE = 0.5, 0.1

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    An "error" must be looked at before training, a "warning" is worth a look, a "note" is good to know.
    `files` are the pictures that it is about, worst first.
    """

    level: Level
    kind: str
    text: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parts:
    """What the findings are drawn from."""

    balance: Balance
    looks: Looks
    judgement: Judgement
    duplicates: Duplicates
    leakage: Leakage
    distance: Distance


def findings_of(dataset: Dataset, parts: Parts) -> tuple[Finding, ...]:
    """All findings, gravest first."""
    found = (
        *_balance(parts.balance),
        *_leakage(parts.leakage),
        *_labels(dataset, parts.judgement),
        *_duplicates(dataset, parts.duplicates),
        *_looks(dataset, parts.looks),
        *_skipped(dataset),
        *_distance(parts.distance, parts.judgement.accuracy),
    )
    return tuple(sorted(found, key=lambda finding: LEVELS.index(finding.level)))


def named(names: Sequence[str], most: int = 5) -> str:
    """Some names with commas; how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(count: int, one: str, many: str = "") -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _balance(balance: Balance) -> Iterator[Finding]:
    if balance.small:
        classes = named([f"{own.label} ({own.pictures})" for own in balance.small])
        text = f"Fewer than {MINIMUM} pictures: {classes}. Their figures will say next to nothing; take more."
        yield Finding("error", "small class", text)
    if balance.uneven:
        sizes = sorted(balance.classes, key=lambda own: (own.pictures, own.label))
        text = (
            f"{sizes[-1].label} has {balance.ratio:.1f} times the pictures of {sizes[0].label}; up to "
            f"{LARGEST_RATIO:.0f} times is fine. Training weighs the classes alike, but take more of {sizes[0].label}."
        )
        yield Finding("warning", "imbalance", text)


def _leakage(leakage: Leakage) -> Iterator[Finding]:
    if leakage.labels:
        files = tuple(dict.fromkeys(file for leak in leakage.labels for file in leak.files))
        sets = counted(len(leakage.labels), "set")
        text = f"{sets} of equal or nearly equal pictures under different labels. One of the labels is wrong: {{}}."
        yield Finding("error", "labels disagree", text.format(_first(leakage.labels)), files)
    for kind in dict.fromkeys(leak.kind for leak in leakage.parts):
        own = [leak for leak in leakage.parts if leak.kind == kind]
        files = tuple(dict.fromkeys(file for leak in own for file in leak.files))
        what = {"near-duplicates": "near-duplicates", "copies": "byte-for-byte copies"}.get(kind, f"the same {kind}")
        text = (
            f"{counted(len(own), 'time')} {what} in two parts of the split: {_first(own)}. The test would "
            "flatter the result; draw the split again, with them together."
        )
        yield Finding("error", "leakage", text, files)


def _first(leaks: Sequence[Leak]) -> str:
    leak = leaks[0]
    return f"{leak.name or named(leak.files, 2)} (in {' and '.join(leak.across)})"


def _labels(dataset: Dataset, judgement: Judgement) -> Iterator[Finding]:
    likely, doubtful = judgement.likely, len(judgement.issues) - len(judgement.likely)
    share = len(likely) / len(dataset.pictures)
    if judgement.accuracy < LEAST_ACCURACY:
        text = (
            f"The classes are hard to tell apart on this backbone's features ({judgement.accuracy:.0%} right), "
            "so whether labels are wrong can not be judged by it; look at the contact sheets."
        )
        yield Finding("note", "labels not judged", text)
    elif likely:
        grave = share > MOST_LABEL_ERRORS
        text = (
            f"{counted(len(likely), 'label is', 'labels are')} probably wrong ({share:.1%} of the pictures"
            f"{', more than 5 %' if grave else ''}), first {likely[0].file}: given {_said(likely[0].given)}, looks "
            f"like {_said(likely[0].suggested)}. Look at them and correct the labels."
        )
        yield Finding("error" if grave else "warning", "label errors", text, tuple(issue.file for issue in likely))
    if doubtful and judgement.accuracy >= LEAST_ACCURACY:
        files = tuple(issue.file for issue in judgement.issues if not issue.likely)
        text = f"{counted(doubtful, 'more label')} doubtful, rather from the classifier's weakness than from a mistake."
        yield Finding("note", "doubtful labels", text, files)


def _said(labels: Sequence[str]) -> str:
    return " + ".join(labels) or "no label"


def _duplicates(dataset: Dataset, duplicates: Duplicates) -> Iterator[Finding]:
    copies = [skip.file for skip in dataset.skipped if skip.copy_of]
    surplus = len(copies) + duplicates.surplus
    share = surplus / (len(dataset.pictures) + len(copies))
    if surplus:
        grave = share > MOST_DUPLICATES
        text = (
            f"{counted(surplus, 'picture')} ({share:.1%}{', more than 20 %' if grave else ''}) add nothing: "
            f"{counted(len(copies), 'byte-for-byte copy', 'byte-for-byte copies')}, which training leaves out, and "
            f"{duplicates.surplus:,} in {counted(len(duplicates.sets), 'set')} of near-duplicates, which the split "
            "keeps together."
        )
        files = tuple(file for files in duplicates.sets for file in sorted(files))
        yield Finding("error" if grave else "warning", "duplicates", text, files)
    for scene in duplicates.scenes:
        text = (
            f"{counted(len(scene), 'picture')} can not be told apart, more than a third of a class: one scene before a "
            "fixed camera, or copies. If they are copies, delete them; a split would part them."
        )
        yield Finding("warning", "one scene", text, tuple(sorted(scene)))


def _looks(dataset: Dataset, looks: Looks) -> Iterator[Finding]:
    for kind in WORDS:
        files = tuple(fault.file for fault in looks.of(kind))
        if files:
            text = (
                f"{counted(len(files), 'picture')}: {WORDS[kind]}. Leave in what production will show, delete the rest."
            )
            yield Finding("warning", WORDS[kind], text, files)
            yield from _shortcut(dataset, WORDS[kind], set(files))
    for kind, share in looks.usual.items():
        yield Finding(
            "note", WORDS[kind], f"{share:.0%} of the pictures: {WORDS[kind]}. So they are; no fault of theirs."
        )
    if looks.unreadable:
        text = f"{counted(len(looks.unreadable), 'picture')} could not be read again: {named(looks.unreadable)}."
        yield Finding("warning", "unreadable", text)


def _shortcut(dataset: Dataset, words: str, files: set[str]) -> Iterator[Finding]:
    for place, label in enumerate(dataset.labels):
        own = {picture.file for picture in dataset.pictures if place in picture.labels}
        others = len(dataset.pictures) - len(own)
        if len(own & files) > SHORTCUT * len(own) and len(files - own) < ELSEWHERE * others:
            text = (
                f"Most pictures of {label} are like that ({words}), and hardly any other: a model may learn that in "
                f"place of {label}. Take pictures of all classes in the same way."
            )
            yield Finding("warning", "shortcut", text, tuple(sorted(own & files)))


def _skipped(dataset: Dataset) -> Iterator[Finding]:
    broken = [skip for skip in dataset.skipped if not skip.copy_of]
    if broken:
        text = f"{counted(len(broken), 'file')} left out, first {broken[0].file}: {broken[0].reason}."
        yield Finding("warning", "skipped files", text)


def _distance(distance: Distance, accuracy: float) -> Iterator[Finding]:
    if distance.word != "far":
        yield Finding("note", "domain", distance.explanation)
    elif accuracy < GOOD_ACCURACY:
        yield Finding("warning", "domain", distance.explanation)
    else:
        text = f"{distance.explanation} Yet a simple classifier on frozen features gets {accuracy:.0%} right."
        yield Finding("note", "domain", text)
