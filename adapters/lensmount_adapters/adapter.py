"""An adapter on its backbone, ready to run: edits by segment, and the head."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lensmount.errors import IncompatibleError, InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.edits import LoraEdits, check_unchanged, claim_lora, claim_unchanged, take_lora
from lensmount_adapters.headers import Entry
from lensmount_adapters.heads import build_head
from lensmount_adapters.layout import FIX, Layout
from lensmount_adapters.lora import LoraConfig, LoraDelta, merged
from lensmount_adapters.manifest import Manifest
from lensmount_adapters.package import Content


@dataclass(frozen=True, eq=False)
class Adapter:
    """Edits + head + task, held against a backbone and found to fit it.

    `lora` and `replaced` go from segment index to the edited modules (to the tensors that stand in place of
    the model's own) by their names in the model; a segment is in one of them at most. `fork` is the first
    edited segment, or the number of segments without any.
    """

    manifest: Manifest
    content_hash: str
    fork: int
    lora: Mapping[int, Mapping[str, LoraDelta]]
    replaced: Mapping[int, Mapping[str, Tensor]]
    head: nn.Module

    def merged(self, model: nn.Module) -> dict[str, Tensor]:
        """Every weight and statistic of `model` that this adapter changes, by name, with the change merged in."""
        tensors: dict[str, Tensor] = {}
        for edits in self.replaced.values():
            tensors.update({name: tensor for name, tensor in edits.items() if tensor.is_floating_point()})
        return {**tensors, **merged(model, self.deltas)}

    @property
    def deltas(self) -> dict[str, LoraDelta]:
        """The low-rank edits of all segments, by module."""
        return {name: delta for deltas in self.lora.values() for name, delta in deltas.items()}

    @property
    def size_bytes(self) -> int:
        """What its tensors take: LoRA, replaced ones and the head's."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())

    def to(self, device: torch.device) -> Adapter:
        """The adapter with its tensors on `device`; itself when they are there."""
        if all(tensor.device == device for tensor in self._tensors()):
            return self
        return replace(
            self,
            lora={index: {name: delta.to(device) for name, delta in own.items()} for index, own in self.lora.items()},
            replaced={index: {name: t.to(device) for name, t in own.items()} for index, own in self.replaced.items()},
            head=copy.deepcopy(self.head).to(device),
        )

    def _tensors(self) -> Iterator[Tensor]:
        for delta in self.deltas.values():
            yield from delta.tensors
        for tensors in self.replaced.values():
            yield from tensors.values()
        yield from self.head.state_dict().values()


@dataclass(frozen=True, eq=False)
class Fitting:
    """What a package says of its tensors, held against a backbone: every name has its place.

    Shapes, types and ranks are `layout`'s to check, in this order, before an adapter is made.
    """

    manifest: Manifest
    lora: LoraConfig | None
    backbone: Backbone
    layout: Layout
    head: nn.Module
    fork: int

    def adapter(self, tensors: Mapping[str, Tensor], content_hash: str) -> Adapter:
        """The adapter of these tensors, which are what the layout was told; raises InvalidInputError for values."""
        check_unchanged(self.backbone, self.layout, tensors)
        edits = LoraEdits({}, {})
        if self.lora is not None:
            edits = take_lora(self.lora, self.backbone, _indices(self.manifest, self.backbone, "lora"), tensors)
        replaced = {
            index: {name: _placed(tensors[name], own, self.backbone) for name, own in state.items()}
            for index, state in _replaced(self.manifest, self.backbone).items()
        }
        return Adapter(
            self.manifest, content_hash, self.fork, edits.low_rank, {**replaced, **edits.merged}, self._head(tensors)
        )

    def _head(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        classifier = self.backbone.classifier
        taken = {
            name: _placed(tensors[f"{classifier}.{name}"], own, self.backbone)
            for name, own in self.head.state_dict().items()
        }
        self.head.load_state_dict(taken, assign=True)
        return self.head.eval().requires_grad_(requires_grad=False)


def fit(package: Content, backbone: Backbone) -> Adapter:
    """Put a package on a backbone.

    Raises IncompatibleError for another backbone, InvalidInputError for a tensor that does not fit.
    """
    manifest = package.manifest
    check_backbone(manifest, backbone)
    check_preprocessing(manifest, backbone)
    entries = {name: Entry.of(tensor) for name, tensor in package.tensors.items()}
    fitting = check_names(manifest, package.lora, backbone, entries)
    fitting.layout.check_shapes()
    fitting.layout.check_dtypes()
    fitting.layout.check_ranks()
    return fitting.adapter(package.tensors, package.content_hash)


def check_backbone(manifest: Manifest, backbone: Backbone) -> None:
    """Raise IncompatibleError unless the adapter was trained on exactly these weights."""
    wanted = manifest.backbone
    if wanted.name != backbone.name:
        message = f"the adapter is for {wanted.name}, this server runs {backbone.name}"
        fix = f"lensmount serve --backbone {wanted.name}, or train the adapter on {backbone.name}"
        raise IncompatibleError(message, field="task.json: backbone.name", value=wanted.name, fix=fix)
    if wanted.fingerprint != backbone.fingerprint:
        message = f"other weights: this server's {backbone.name} is {backbone.fingerprint[:12]}…"
        raise IncompatibleError(message, field="task.json: backbone.fingerprint", value=wanted.fingerprint, fix=FIX)


def check_preprocessing(manifest: Manifest, backbone: Backbone) -> None:
    """Raise IncompatibleError unless the adapter was trained on pictures of a size that the backbone takes."""
    size, own = manifest.preprocessing.size, backbone.preprocessing.size
    if backbone.fixed_size and size != own:
        message = f"{backbone.name} takes pictures of {own} only"
        raise IncompatibleError(message, field="task.json: preprocessing", value=size, fix=FIX)


def check_names(
    manifest: Manifest, lora: LoraConfig | None, backbone: Backbone, entries: Mapping[str, Entry]
) -> Fitting:
    """Give every tensor, by its name in the model, its place.

    Raises InvalidInputError for a segment that the backbone does not have, a fork that does not follow from the
    edits, a tensor that is missing or belongs to nothing.
    """
    layout = Layout(entries)
    low_rank = _indices(manifest, backbone, "lora")
    if lora is not None:
        claim_lora(lora, backbone, low_rank, layout)
    replaced = _replaced(manifest, backbone)
    for state in replaced.values():
        for name, own in state.items():
            layout.claim(name, own)
    # On no device: to draw weights that are replaced at once takes time, and moves the global random state.
    with torch.device("meta"):
        head = build_head(manifest.head, backbone, len(manifest.labels))
    for name, own in head.state_dict().items():
        layout.claim(f"{backbone.classifier}.{name}", own)
    if lora is not None and lora.bias == "all":
        claim_unchanged(backbone, head, layout)
    layout.check_names()
    fork = min([*low_rank, *replaced], default=len(backbone.segments))
    if manifest.fork != fork:
        message, fix = f"{fork} follows from the edits", "write the package with `lensmount train`"
        raise InvalidInputError(message, field="task.json: fork", value=manifest.fork, fix=fix)
    return Fitting(manifest, lora, backbone, layout, head, fork)


def _indices(manifest: Manifest, backbone: Backbone, kind: str) -> list[int]:
    """The segments that are edited in this way."""
    names = [segment.name for segment in backbone.segments]
    for edit in manifest.edits:
        if edit.segment not in names:
            message = f"{backbone.name} has no such segment"
            raise InvalidInputError(message, field="task.json: edits", value=edit.segment, fix=FIX)
    return sorted(names.index(edit.segment) for edit in manifest.edits if edit.kind == kind)


def _replaced(manifest: Manifest, backbone: Backbone) -> dict[int, dict[str, Tensor]]:
    """By segment that is replaced: the model's own tensors that others stand in for, by name."""
    indices = _indices(manifest, backbone, "replace")
    state = backbone.model.state_dict() if indices else {}
    return {
        index: {name: own for name, own in state.items() if backbone.segments[index].owns_tensor(name)}
        for index in indices
    }


def _placed(tensor: Tensor, own: Tensor, backbone: Backbone) -> Tensor:
    return tensor.to(backbone.device, torch.float32 if tensor.is_floating_point() else own.dtype)
