"""An adapter on its backbone, ready to run: edits by segment, and the head."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lensmount.errors import IncompatibleError, InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.edits import LoraEdits, drop_unchanged, take_lora
from lensmount_adapters.heads import build_head
from lensmount_adapters.lora import LoraDelta, merged
from lensmount_adapters.manifest import Manifest
from lensmount_adapters.package import TENSOR_FILE, Content
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_adapters.taking import FIX, FIX_TENSORS, take


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


def fit(package: Content, backbone: Backbone) -> Adapter:
    """Put a package on a backbone.

    Raises IncompatibleError for another backbone, InvalidInputError for a tensor that does not fit.
    """
    manifest = package.manifest
    check_backbone(manifest, backbone)
    remaining = dict(package.tensors)
    lora = _take_lora(package, backbone, remaining)
    replaced = {**_take_replaced(manifest, backbone, remaining), **lora.merged}
    head = _take_head(manifest, backbone, remaining)
    if package.lora and package.lora.bias == "all":
        drop_unchanged(backbone, head.state_dict(), remaining)
    if remaining:
        message = "belongs to no edit of task.json and not to the head"
        raise InvalidInputError(message, field=f"{TENSOR_FILE}: {min(remaining)}", fix=FIX_TENSORS)
    edited = sorted({*lora.low_rank, *replaced})
    fork = edited[0] if edited else len(backbone.segments)
    if manifest.fork != fork:
        message, fix = f"{fork} follows from the edits", "write the package with `lensmount train`"
        raise InvalidInputError(message, field="task.json: fork", value=manifest.fork, fix=fix)
    return Adapter(manifest, package.content_hash, fork, lora.low_rank, replaced, head)


def check_backbone(manifest: Manifest, backbone: Backbone) -> None:
    """Raise IncompatibleError unless the adapter was trained on exactly these weights, for a size that they take."""
    wanted = manifest.backbone
    if wanted.name != backbone.name:
        message = f"the adapter is for {wanted.name}, this server runs {backbone.name}"
        fix = f"lensmount serve --backbone {wanted.name}, or train the adapter on {backbone.name}"
        raise IncompatibleError(message, field="task.json: backbone.name", value=wanted.name, fix=fix)
    if wanted.fingerprint != backbone.fingerprint:
        message = f"other weights: this server's {backbone.name} is {backbone.fingerprint[:12]}…"
        raise IncompatibleError(message, field="task.json: backbone.fingerprint", value=wanted.fingerprint, fix=FIX)
    size, own = _size(manifest.preprocessing), _size(backbone.preprocessing)
    if backbone.fixed_size and size != own:
        message = f"{backbone.name} takes pictures of {own} only"
        raise IncompatibleError(message, field="task.json: preprocessing", value=size, fix=FIX)


def _size(preprocessing: Preprocessing) -> str:
    return f"{preprocessing.width}x{preprocessing.height}"


def _segment_indices(manifest: Manifest, backbone: Backbone, kind: str) -> list[int]:
    names = [segment.name for segment in backbone.segments]
    for edit in manifest.edits:
        if edit.segment not in names:
            message = f"{backbone.name} has no such segment"
            raise InvalidInputError(message, field="task.json: edits", value=edit.segment, fix=FIX)
    return sorted(names.index(edit.segment) for edit in manifest.edits if edit.kind == kind)


def _take_lora(package: Content, backbone: Backbone, tensors: dict[str, Tensor]) -> LoraEdits:
    if package.lora is None:
        return LoraEdits({}, {})
    return take_lora(package.lora, backbone, _segment_indices(package.manifest, backbone, "lora"), tensors)


def _take_replaced(manifest: Manifest, backbone: Backbone, tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    indices = _segment_indices(manifest, backbone, "replace")
    state = backbone.model.state_dict() if indices else {}
    return {
        index: {
            name: take(tensors, name, own, backbone.device)
            for name, own in state.items()
            if backbone.segments[index].owns_tensor(name)
        }
        for index in indices
    }


def _take_head(manifest: Manifest, backbone: Backbone, tensors: dict[str, Tensor]) -> nn.Module:
    # On no device: to draw weights that are replaced at once takes time, and moves the global random state.
    with torch.device("meta"):
        head = build_head(manifest.head, backbone, len(manifest.labels))
    taken = {
        name: take(tensors, f"{backbone.classifier}.{name}", own, backbone.device)
        for name, own in head.state_dict().items()
    }
    head.load_state_dict(taken, assign=True)
    return head.eval().requires_grad_(requires_grad=False)
