"""The package of an import: written beside its place, held against the original, and only then put there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from lensmount.errors import IncompatibleError, InvalidInputError
from lensmount_adapters.adapter import fit
from lensmount_adapters.answering import answer_each
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.golden import TOLERANCE, Golden
from lensmount_adapters.heads import HeadSpec
from lensmount_adapters.importing.plan import Plan
from lensmount_adapters.manifest import BackboneRef, Manifest, Provenance, invalid
from lensmount_adapters.package import MANIFEST_FILE, read_package, write_package
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_adapters.scratch import beside

VERSIONED = ("lensmount", "torch", "timm", "safetensors")
ALLOWED = TOLERANCE["fp32"]
FIX = "give the --backbone, --weights and --base that it was trained on"


@dataclass(frozen=True, eq=False)
class Description:
    """What a package says of itself beside edits and tensors."""

    task: str
    labels: Sequence[str]
    kind: str
    strategy: str
    preprocessing: Preprocessing
    metrics: Mapping[str, float]
    settings: Mapping[str, str | int | float | bool]
    data_hash: str
    seed: int


def describe(description: Description, plan: Plan, backbone: Backbone) -> Manifest:
    """The manifest; raises InvalidInputError for a task or label that a package can not have."""
    names = [segment.name for segment in backbone.segments]
    values: dict[str, Any] = {
        "task": description.task,
        "labels": list(description.labels),
        "kind": description.kind,
        "head": HeadSpec(),
        "strategy": description.strategy,
        "edits": list(plan.edits),
        "fork": min((names.index(edit.segment) for edit in plan.edits), default=len(names)),
        "backbone": BackboneRef(name=backbone.name, fingerprint=backbone.fingerprint),
        "preprocessing": description.preprocessing,
        "metrics": dict(description.metrics),
        "provenance": Provenance(
            data_hash=description.data_hash,
            seed=description.seed,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={name: version(name) for name in VERSIONED},
            settings=dict(description.settings),
        ),
    }
    try:
        return Manifest(**values)
    except ValidationError as error:
        raise invalid(MANIFEST_FILE, error) from error


def pack(out: Path, manifest: Manifest, plan: Plan, golden: Golden, backbone: Backbone) -> float:
    """Write the package into the new folder `out`; the largest difference of its logits from the golden ones.

    The difference is relative to the largest logit. Raises IncompatibleError when it is more than `ALLOWED`,
    InvalidInputError for a folder that exists or can not be written; then there is nothing at `out`.
    """
    check_out(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with beside(out) as scratch:
            folder = scratch / out.name
            write_package(folder, manifest, plan.tensors, golden, _card(manifest), plan.lora)
            difference = check_equivalence(folder, backbone, golden)
            folder.rename(out)
    except OSError as error:
        message = f"the package can not be written: {error.strerror}"
        fix = "free some space or give another --out"
        raise InvalidInputError(message, field="out", value=out, fix=fix) from error
    return difference


def check_out(out: Path) -> None:
    """Raise InvalidInputError when something is at `out`."""
    if out.exists():
        fix = "give another --out, or delete the folder"
        raise InvalidInputError("the folder exists", field="out", value=out, fix=fix)


def check_equivalence(folder: Path, backbone: Backbone, golden: Golden) -> float:
    """How far a package's logits are from the golden ones; raises IncompatibleError beyond `ALLOWED`."""
    found = package_logits(folder, backbone, golden)
    scale = max(float(golden.logits.abs().max()), 1.0)
    difference = float((found - golden.logits).abs().max()) / scale
    if not difference <= ALLOWED:
        message = (
            f"the package answers otherwise than the original: logits differ by {difference:.2g}, {ALLOWED:.0e} allowed"
        )
        raise IncompatibleError(message, field="equivalence check", value=f"{difference:.3g}", fix=FIX)
    return difference


def package_logits(folder: Path, backbone: Backbone, golden: Golden) -> Tensor:
    """Logits (pictures, labels) of a package's adapter, read from its folder, on the golden pictures."""
    return answer_each(fit(read_package(folder), backbone), backbone, golden.pictures)


def _card(manifest: Manifest) -> str:
    source = manifest.provenance.settings
    edits = ", ".join(f"{edit.segment} ({edit.kind})" for edit in manifest.edits) or "none"
    figures = "".join(f"- {name}: {value:.4g}\n" for name, value in sorted(manifest.metrics.items()))
    return (
        f"# {manifest.task}\n\n"
        f"A lensmount adapter for `{manifest.backbone.name}`, weights `{manifest.backbone.fingerprint[:12]}`, "
        f"imported from `{source['source']}`.\n\n"
        f"- Labels: {len(manifest.labels)}\n- Edited segments: {edits}\n- Fork: segment {manifest.fork}\n{figures}\n"
        "`lensmount register PATH` brings it to a server, which repeats the golden check: the golden logits are the "
        "original model's.\n"
    )
