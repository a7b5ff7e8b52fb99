"""From what was trained to a package in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch

from lensmount.errors import InvalidInputError
from lensmount_adapters.adapter import Adapter, fit
from lensmount_adapters.answering import answer_each
from lensmount_adapters.golden import Golden
from lensmount_adapters.heads import HeadSpec
from lensmount_adapters.lora import LoraConfig
from lensmount_adapters.manifest import BackboneRef, Edit, Manifest, Provenance
from lensmount_adapters.package import Content, read_package, write_package
from lensmount_adapters.pictures import Pixels
from lensmount_training.recipe import RECIPE
from lensmount_training.saving import AGAIN
from lensmount_training.strategies import Problem
from lensmount_training.strategies.strategy import Settings

VERSIONED = ("lensmount", "torch", "timm", "peft")


class Packable(Protocol):
    """What was trained, fresh from a strategy or kept by a stage; see `Trained`."""

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """By their names in the model."""

    @property
    def settings(self) -> Settings:
        """What the strategy used."""

    @property
    def edits(self) -> tuple[Edit, ...]:
        """By segment."""

    @property
    def lora(self) -> Mapping[str, object] | None:
        """PEFT's config."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """What the strategy measured on the way."""


@dataclass(frozen=True)
class Description:
    """What a package says of a run beside what was trained; without, it is a draft that only answers."""

    task: str = "draft"
    strategy: str = "draft"
    data_hash: str = ""
    recipe: str = ""
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()
    requirements: Mapping[str, float] | None = None
    metrics: Mapping[str, float] | None = None


DRAFT = Description()


def adapter_of(problem: Problem, trained: Packable, description: Description = DRAFT) -> Adapter:
    """What was trained, on its backbone, as a server would mount it: for logits, its description does not matter."""
    lora = LoraConfig.model_validate_json(json.dumps(trained.lora)) if trained.lora is not None else None
    tensors = {name: _as_packed(tensor) for name, tensor in trained.tensors.items()}
    return fit(Content(manifest_of(problem, trained, description), lora, tensors, ""), problem.backbone)


def pack(
    problem: Problem, trained: Packable, manifest: Manifest, specimens: tuple[Pixels, ...], card: str, target: Path
) -> None:
    """Write the package into the new folder `target`, whole or not at all; `specimens` are its golden pictures.

    Golden logits are those of each picture alone, to the bit of a server's reference engine.
    Raises InvalidInputError when the place can not be written.
    """
    adapter = adapter_of(problem, trained)
    golden = Golden(specimens, answer_each(adapter, problem.backbone, specimens))
    try:
        write_package(target, manifest, trained.tensors, golden, card, trained.lora)
    except OSError as error:
        message = f"the package can not be written: {error.strerror}"
        raise InvalidInputError(message, field="out", value=target, fix=AGAIN) from error


def packed_before(manifest: Manifest, target: Path) -> Manifest:
    """The manifest of the package at `target`, which is this one but for its date: the run was ended behind it.

    Raises InvalidInputError for a package that says anything else.
    """
    known = read_package(target).manifest
    same = known.provenance.model_copy(update={"created": manifest.provenance.created})
    if known.model_copy(update={"provenance": same}) != manifest:
        message, fix = "the folder holds another result", "delete it, and give the same command again"
        raise InvalidInputError(message, field="out", value=target, fix=fix)
    return known


def manifest_of(problem: Problem, trained: Packable, description: Description) -> Manifest:
    """The manifest of what was trained."""
    backbone = problem.backbone
    names = [segment.name for segment in backbone.segments]
    recipe = {RECIPE: description.recipe} if description.recipe else {}
    return Manifest(
        task=description.task,
        labels=list(problem.labels),
        kind=problem.kind,
        head=HeadSpec(),
        strategy=description.strategy,
        edits=list(trained.edits),
        fork=min((names.index(edit.segment) for edit in trained.edits), default=len(names)),
        backbone=BackboneRef(name=backbone.name, fingerprint=backbone.fingerprint),
        preprocessing=backbone.preprocessing,
        temperature=description.temperature,
        thresholds=list(description.thresholds),
        requirements=dict(description.requirements or {}),
        metrics={**trained.metrics, **(description.metrics or {})},
        provenance=Provenance(
            data_hash=description.data_hash,
            seed=problem.seed,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={name: version(name) for name in VERSIONED},
            settings={**trained.settings, **recipe},
        ),
    )


def _as_packed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
