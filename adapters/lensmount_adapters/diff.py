"""What changed between two packages, in numbers and names; no tensor leaves this file.

The change of a tensor is relative: the Frobenius norm of after - before, by that of before. A and B of a LoRA edit can
both change and stand for the same; so what they add to the weight, scale · B A, is compared as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lensmount_adapters.lora import LoraDelta
from lensmount_adapters.manifest import Manifest
from lensmount_adapters.package import Package

# These are compared in their own way.
_APART = ("labels", "thresholds", "metrics", "edits")


@dataclass(frozen=True)
class Field:
    """A field of task.json or adapter_config.json, dotted; None where it is not there."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Labels:
    """Labels in the order of the scores. `moved` are in both, at another place: their scores mean something else."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    moved: tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """A test metric; None where it is not there."""

    name: str
    before: float | None
    after: float | None

    @property
    def difference(self) -> float | None:
        """After minus before, where there are both."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class SegmentEdit:
    """What is done to a segment: "lora", "replace", or "" for nothing."""

    segment: str
    before: str
    after: str


@dataclass(frozen=True)
class TensorChange:
    """A tensor that is not the same; a shape is None where it is not there, `relative` where shapes differ."""

    name: str
    before: tuple[int, ...] | None
    after: tuple[int, ...] | None
    relative: float | None


@dataclass(frozen=True)
class LowRankChange:
    """A module with A and B on both sides: rank, scale, and how much what they add to the weight changed."""

    module: str
    rank_before: int
    rank_after: int
    scale_before: float
    scale_after: float
    relative: float | None


@dataclass(frozen=True)
class Diff:
    """Everything that differs; `same` when the contents are equal to the byte. Sizes in bytes."""

    same: bool
    hash_before: str
    hash_after: str
    labels: Labels
    fields: tuple[Field, ...]
    metrics: tuple[Metric, ...]
    edits: tuple[SegmentEdit, ...]
    tensors: tuple[TensorChange, ...]
    same_tensors: int
    low_rank: tuple[LowRankChange, ...]
    size_before: int
    size_after: int

    def plain(self) -> dict[str, Any]:
        """All of it in JSON's types."""
        metrics = [{**asdict(metric), "difference": metric.difference} for metric in self.metrics]
        return {**asdict(self), "metrics": metrics}


def diff(before: Package, after: Package) -> Diff:
    """What changed from one package to another."""
    a, b = before.manifest, after.manifest
    tensors = tuple(_tensors(before.tensors, after.tensors))
    changed = sum(own.before is not None and own.after is not None for own in tensors)
    return Diff(
        same=before.content_hash == after.content_hash,
        hash_before=before.content_hash,
        hash_after=after.content_hash,
        labels=_labels(a.labels, b.labels),
        fields=tuple(_fields(_described(before), _described(after))),
        metrics=tuple(_metrics(a.metrics, b.metrics)),
        edits=tuple(_edits(a, b)),
        tensors=tensors,
        same_tensors=len(before.tensors.keys() & after.tensors.keys()) - changed,
        low_rank=tuple(_low_rank(before, after)),
        size_before=before.size_bytes,
        size_after=after.size_bytes,
    )


def _labels(before: list[str], after: list[str]) -> Labels:
    return Labels(
        before=tuple(before),
        after=tuple(after),
        added=tuple(label for label in after if label not in before),
        removed=tuple(label for label in before if label not in after),
        moved=tuple(label for at, label in enumerate(before) if label in after and after.index(label) != at),
    )


def _described(package: Package) -> dict[str, Any]:
    """The fields of a package by dotted name, thresholds by label."""
    own = package.manifest
    plain = {name: value for name, value in own.model_dump(mode="json").items() if name not in _APART}
    thresholds = dict(zip(own.labels, own.thresholds, strict=False))
    config = package.lora.model_dump(mode="json") if package.lora else {}
    return dict(_flat({**plain, "thresholds": thresholds, "adapter_config": config}, ""))


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _fields(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Field]:
    for name in dict.fromkeys((*before, *after)):
        if before.get(name) != after.get(name):
            yield Field(name, before.get(name), after.get(name))


def _metrics(before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[Metric]:
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield Metric(name, before.get(name), after.get(name))


def _edits(before: Manifest, after: Manifest) -> Iterator[SegmentEdit]:
    a, b = ({edit.segment: edit.kind for edit in own.edits} for own in (before, after))
    for segment in dict.fromkeys((*a, *b)):
        yield SegmentEdit(segment, a.get(segment, ""), b.get(segment, ""))


def _tensors(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Iterator[TensorChange]:
    for name in sorted({*before, *after}):
        a, b = before.get(name), after.get(name)
        if a is None or b is None or a.shape != b.shape or not torch.equal(a, b):
            yield TensorChange(name, _shape(a), _shape(b), None if a is None or b is None else _relative(a, b))


def _low_rank(before: Package, after: Package) -> Iterator[LowRankChange]:
    for name in sorted(before.tensors.keys() & after.tensors.keys()):
        module = name.removesuffix(".lora_A.weight")
        if module == name:
            continue
        a, b = _added(before, module), _added(after, module)
        if a is None or b is None or (a.scale == b.scale and all(map(torch.equal, a.tensors, b.tensors))):
            continue
        yield LowRankChange(module, len(a.a), len(b.a), a.scale, b.scale, _relative_product(a, b))


def _added(package: Package, module: str) -> LoraDelta | None:
    """A and B of a module as matrices; None where they do not belong together."""
    a, b = package.tensors[f"{module}.lora_A.weight"], package.tensors.get(f"{module}.lora_B.weight")
    if b is None or package.lora is None or min(a.ndim, b.ndim) < 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
        return None
    return LoraDelta(a.flatten(1).double(), b.flatten(1).double(), package.lora.scale(module))


def _relative_product(before: LoraDelta, after: LoraDelta) -> float | None:
    """As `_relative`, of what A and B add to the weight."""
    if (before.a.shape[1], before.b.shape[0]) != (after.a.shape[1], after.b.shape[0]):
        return None
    b = torch.cat([after.b * after.scale, before.b * -before.scale], dim=1)
    return _ratio(_norm(b, torch.cat([after.a, before.a])), _norm(before.b * before.scale, before.a))


def _norm(b: Tensor, a: Tensor) -> float:
    """The Frobenius norm of B A, never made whole: an orthogonal factor of B leaves it as it is."""
    _, triangle = torch.linalg.qr(b, mode="r")
    return float(torch.linalg.vector_norm(triangle @ a))


def _relative(before: Tensor, after: Tensor) -> float | None:
    """The norm of the change by the norm of what was; None for other shapes."""
    if before.shape != after.shape:
        return None
    change, own = (float(torch.linalg.vector_norm(each.double())) for each in (after.double() - before, before))
    return _ratio(change, own)


def _ratio(change: float, own: float) -> float:
    """Infinite where something came of nothing."""
    if own:
        return change / own
    return float("inf") if change else 0.0


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)
