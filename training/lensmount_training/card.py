"""The model card: the README.md of a package, written from its manifest and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lensmount_adapters.manifest import Manifest
from lensmount_training.evaluation import Scores

Counts = Mapping[str, Sequence[int]]


def model_card(manifest: Manifest, counts: Counts, validation: Scores, test: Scores) -> str:
    """Markdown; `counts` gives pictures per label, in the order of the labels, for every part of the data."""
    edited = ", ".join(edit.segment for edit in manifest.edits) or "none"
    sections = [
        f"# {manifest.task}",
        f"A lensmount adapter for `{manifest.backbone.name}`, weights `{manifest.backbone.fingerprint[:12]}`.",
        f"It tells apart: {', '.join(map(_plain, manifest.labels))}.",
        f"- Strategy: {manifest.strategy}\n- Edited segments: {edited}\n- Fork: segment {manifest.fork}",
        "## Data",
        _data(manifest, counts),
        "## Figures",
        _figures(validation, test),
        _opened(manifest),
        _per_class(test),
        *_confusion(manifest, test),
        "## Use",
        "    lensmount register PATH",
        "with the path of this folder. The server repeats the golden check before it serves a frame.",
    ]
    return "\n\n".join(sections) + "\n"


def _data(manifest: Manifest, counts: Counts) -> str:
    rows = [[part, *own, sum(own)] for part, own in counts.items()]
    source = manifest.provenance
    note = f"SHA-256 of the data `{source.data_hash}`, split and training with seed {source.seed}."
    return _table(["part", *manifest.labels, "all"], rows) + "\n\n" + note


def _figures(validation: Scores, test: Scores) -> str:
    rows = [
        [
            name,
            scores.pictures,
            f"{scores.accuracy:.3f}",
            f"{scores.low:.3f} to {scores.high:.3f}",
            f"{scores.macro_f1:.3f}",
        ]
        for name, scores in (("validation", validation), ("sealed test", test))
    ]
    return _table(["part", "pictures", "accuracy", "95 % interval", "macro F1"], rows)


def _opened(manifest: Manifest) -> str:
    times = int(manifest.metrics.get("test_openings", 1))
    if times == 1:
        return "On the sealed test set, opened once after all choices were made:"
    return f"On the sealed test set. Runs before this one had opened it: this was opening {times}, so they may flatter."


def _per_class(test: Scores) -> str:
    rows = [
        [own.label, f"{own.precision:.3f}", f"{own.recall:.3f}", f"{own.f1:.3f}", own.support] for own in test.classes
    ]
    return _table(["label", "precision", "recall", "F1", "pictures"], rows)


def _confusion(manifest: Manifest, test: Scores) -> list[str]:
    """Who is taken for whom; with several labels a picture nobody is."""
    if not test.confusion:
        return []
    rows = [[label, *row] for label, row in zip(manifest.labels, test.confusion, strict=True)]
    return ["Pictures of a class (row) by answer (column):", _table(["", *manifest.labels], rows)]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_plain(cell) for cell in line)} |" for line in lines)


def _plain(cell: object) -> str:
    """A label is somebody's folder name: it must not become markup."""
    return "".join(f"\\{char}" if char in r"\`*_{}[]<>#|!" else char for char in str(cell))
