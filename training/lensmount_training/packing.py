"""From what was trained to a package in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from lensmount.errors import InvalidInputError
from lensmount_adapters.adapter import fit
from lensmount_adapters.answering import answer_each
from lensmount_adapters.golden import Golden
from lensmount_adapters.heads import HeadSpec
from lensmount_adapters.lora import LoraConfig
from lensmount_adapters.manifest import BackboneRef, Manifest, Provenance
from lensmount_adapters.package import Content, write_package
from lensmount_adapters.pictures import Pixels
from lensmount_training.card import model_card
from lensmount_training.data import Pictures
from lensmount_training.evaluation import Scores
from lensmount_training.strategies import Problem, Trained

VERSIONED = ("lensmount", "torch", "timm", "peft")


@dataclass(frozen=True, eq=False)
class Result:
    """All that a package says of a run; `specimens` become its golden pictures."""

    task: str
    strategy: str
    problem: Problem
    trained: Trained
    test_pictures: Pictures
    validation: Scores
    test: Scores
    data_hash: str
    specimens: tuple[Pixels, ...]


def pack(result: Result, target: Path) -> Manifest:
    """Write the package of a run into the new folder `target`, whole or not at all.

    Raises InvalidInputError when the place can not be written.
    """
    manifest = _manifest(result)
    card = model_card(manifest, _counts(result), result.validation, result.test)
    try:
        write_package(target, manifest, result.trained.tensors, _golden(result, manifest), card, result.trained.lora)
    except OSError as error:
        message = f"the package can not be written: {error.strerror}"
        fix = "free some space or give another --out, and train again"
        raise InvalidInputError(message, field="out", value=target, fix=fix) from error
    return manifest


def _manifest(result: Result) -> Manifest:
    backbone, trained = result.problem.backbone, result.trained
    names = [segment.name for segment in backbone.segments]
    return Manifest(
        task=result.task,
        labels=list(result.problem.labels),
        head=HeadSpec(),
        strategy=result.strategy,
        edits=list(trained.edits),
        fork=min((names.index(edit.segment) for edit in trained.edits), default=len(names)),
        backbone=BackboneRef(name=backbone.name, fingerprint=backbone.fingerprint),
        preprocessing=backbone.preprocessing,
        metrics={**_figures("validation", result.validation), **_figures("test", result.test), **trained.metrics},
        provenance=Provenance(
            data_hash=result.data_hash,
            seed=result.problem.seed,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={name: version(name) for name in VERSIONED},
            settings=dict(trained.settings),
        ),
    )


def _figures(part: str, scores: Scores) -> Mapping[str, float]:
    return {
        f"{part}_accuracy": scores.accuracy,
        f"{part}_accuracy_low": scores.low,
        f"{part}_accuracy_high": scores.high,
        f"{part}_macro_f1": scores.macro_f1,
        f"{part}_pictures": scores.pictures,
    }


def _counts(result: Result) -> Mapping[str, list[int]]:
    problem, labels = result.problem, len(result.problem.labels)
    parts = {"train": problem.train, "validation": problem.validation, "sealed test": result.test_pictures}
    return {name: torch.bincount(part.targets, minlength=labels).tolist() for name, part in parts.items()}


def _golden(result: Result, manifest: Manifest) -> Golden:
    """The specimens with the logits of what is packed, each alone: the bits of a server's reference engine."""
    trained, backbone = result.trained, result.problem.backbone
    lora = LoraConfig.model_validate_json(json.dumps(trained.lora)) if trained.lora is not None else None
    tensors = {name: tensor.float() for name, tensor in trained.tensors.items()}
    adapter = fit(Content(manifest, lora, tensors, ""), backbone)
    return Golden(result.specimens, answer_each(adapter, backbone, result.specimens))
