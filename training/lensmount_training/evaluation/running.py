"""A package against pictures, without a server: read, answer, judge, show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.adapter import Adapter, fit
from lensmount_adapters.backbones import Backbone, load_backbone
from lensmount_adapters.manifest import Manifest
from lensmount_adapters.package import Package, read_package
from lensmount_training.context import Context
from lensmount_training.data import Dataset, Pictures
from lensmount_training.data.reading import read
from lensmount_training.evaluation.calibration import Calibration
from lensmount_training.evaluation.comparing import compare
from lensmount_training.evaluation.judging import evaluate
from lensmount_training.evaluation.listing import AS_TRAINED, Reading, listed
from lensmount_training.evaluation.parts import Origin, PartName, choose
from lensmount_training.evaluation.predicting import predict_adapter
from lensmount_training.evaluation.report import Report, show
from lensmount_training.evaluation.required import parse_required
from lensmount_training.evaluation.scores import Bools, decisions, truths
from lensmount_training.recipe import RECIPE
from lensmount_training.sealed import identity


@dataclass(frozen=True)
class Request:
    """What is to be judged by what; `required` are recalls as they are written on the command line."""

    package: Path
    data: Path
    weights: Path | None = None
    part: PartName = "all"
    split: Path | None = None
    against: Path | None = None
    required: tuple[str, ...] = ()
    seed: int = 0
    reading: Reading = AS_TRAINED


@dataclass(frozen=True, eq=False)
class Judged:
    """The report, and the package that it is about."""

    report: Report
    manifest: Manifest
    content_hash: str


@dataclass(frozen=True, eq=False)
class _Pictures:
    """The part that is judged: rows with targets by the package's labels, and the truth (n, labels)."""

    part: Pictures
    targets: Tensor
    true: Bools


def judge(request: Request, context: Context) -> Judged:
    """Judge a package by the pictures of a data set.

    Raises LensmountError for a package or backbone that can not be used, data that can not be read, and labels that
    the package does not know.
    """
    package = read_package(request.package)
    manifest = package.manifest
    calibration = _calibration(manifest, request.required)
    backbone = load_backbone(manifest.backbone.name, request.weights)
    adapter = fit(package, backbone)
    other = _other(request.against, manifest)
    second = fit(other, backbone) if other else None
    listing = listed(request.data, request.reading, manifest)
    dataset = read(listing, manifest.preprocessing, context.cache, context.progress, least=0)
    trained = manifest.provenance
    origin = Origin(request.package, trained.data_hash, trained.seed, _adapters(request, package, other))
    chosen = choose(request.part, dataset, origin, context.openings, request.split)
    if chosen.warning:
        context.progress.say(chosen.warning)
    pictures = _pictures(dataset, chosen.files, manifest)
    logits = _logits(adapter, backbone, pictures.part, request.package.name, context)
    names = set(chosen.files)
    own = tuple(picture for picture in dataset.pictures if picture.file in names)
    evaluation = evaluate(logits, pictures.targets, manifest.labels, manifest.kind, calibration, own, request.seed)
    comparison = None
    if second is not None and request.against is not None:
        called = decisions(logits, manifest.kind, calibration)
        called_other = _called(second, backbone, pictures.part, manifest, request.against.name, context)
        comparison = compare(*_names(request), called, called_other, pictures.true, request.seed)
    report = Report(
        task=manifest.task,
        evaluation=evaluation,
        part=chosen.words,
        facts=facts(package, request.package, request.data, dataset),
        shown=show(evaluation, adapter, backbone, pictures.part),
        comparison=comparison,
        skipped=dataset.skipped,
    )
    return Judged(report, manifest, package.content_hash)


def _pictures(dataset: Dataset, files: Sequence[str], manifest: Manifest) -> _Pictures:
    """Rows of these files, with targets by the places of the package's labels."""
    part = dataset.take(files)
    places = [manifest.labels.index(label) for label in dataset.labels]
    true = torch.zeros(len(part), len(manifest.labels))
    true[:, places] = torch.from_numpy(truths(part.targets, len(dataset.labels))).float()
    targets = true if manifest.kind == "multi_label" else true.argmax(1)
    return _Pictures(part, targets, truths(targets, len(manifest.labels)))


def _logits(adapter: Adapter, backbone: Backbone, part: Pictures, name: str, context: Context) -> Tensor:
    return predict_adapter(adapter, backbone, part, context.progress.bar(f"judging {name}", len(part)))


def _other(path: Path | None, manifest: Manifest) -> Package | None:
    """The package to compare with, which must look at the same pictures and tell the same labels."""
    if path is None:
        return None
    package = read_package(path)
    own = package.manifest
    if set(own.labels) != set(manifest.labels) or own.kind != manifest.kind:
        fix = "compare packages of the same labels and kind"
        raise InvalidInputError("it tells other labels", field="against", value=path, fix=fix)
    if own.preprocessing != manifest.preprocessing:
        fix = "compare packages of the same backbone and preprocessing"
        raise InvalidInputError("it sees pictures in another size or cut", field="against", value=path, fix=fix)
    return package


def _adapters(request: Request, package: Package, other: Package | None) -> tuple[tuple[str, str], ...]:
    """Who sees the pictures: names and identities."""
    seeing = ((request.package, package), (request.against, other))
    return tuple((path.name, _identity(own)) for path, own in seeing if path and own)


def _identity(package: Package) -> str:
    return identity(package.tensors, package.manifest.temperature, package.manifest.thresholds)


def _called(
    adapter: Adapter, backbone: Backbone, part: Pictures, manifest: Manifest, name: str, context: Context
) -> Bools:
    """What another adapter decides, in the order of the package's labels."""
    own = adapter.manifest
    called = decisions(_logits(adapter, backbone, part, name, context), own.kind, _calibration(own, ()))
    return called[:, [own.labels.index(label) for label in manifest.labels]]


def _calibration(manifest: Manifest, required: Sequence[str]) -> Calibration:
    """The package's own, with what is required now on top of what it requires of itself."""
    asked = {f"recall.{label}": least for label, least in parse_required(required, manifest.labels).items()}
    return Calibration(manifest.temperature, tuple(manifest.thresholds), {**manifest.requirements, **asked})


def _names(request: Request) -> tuple[str, str]:
    """What the two packages are called: their folders, with their paths where the folders are named alike."""
    first, second = request.package, request.against or request.package
    return (first.name, second.name) if first.name != second.name else (str(first), str(second))


def facts(package: Package, path: Path, data: Path, dataset: Dataset) -> Mapping[str, str]:
    """Where a package and the pictures it is judged by come from, for the report."""
    manifest = package.manifest
    origin = manifest.provenance
    edits = ", ".join(f"{edit.segment} ({edit.kind})" for edit in manifest.edits) or "none"
    settings = {name: value for name, value in origin.settings.items() if name != RECIPE}
    return {
        "package": f"{path}, {package.content_hash}",
        "strategy": manifest.strategy,
        "backbone": f"{manifest.backbone.name}, weights {manifest.backbone.fingerprint[:12]}",
        "edited segments": edits,
        "trained": f"{origin.created}, seed {origin.seed}, on data {origin.data_hash[:12]}",
        "settings": ", ".join(f"{name} {value}" for name, value in settings.items()) or "none told",
        "versions": ", ".join(f"{name} {value}" for name, value in origin.versions.items()) or "none told",
        "temperature, thresholds": f"{manifest.temperature:g}, {_thresholds(manifest)}",
        "judged by": f"{data}, data {dataset.hash[:12]}",
        "computed": f"in fp32 as the reference engine does, torch {torch.__version__}",
    }


def _thresholds(manifest: Manifest) -> str:
    pairs = zip(manifest.labels, manifest.thresholds, strict=False)
    return ", ".join(f"{label} {threshold:.3g}" for label, threshold in pairs) or "none"
