"""A source on its backbone: what is known of it before anything is packed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone, load_backbone
from lensmount_adapters.importing.describing import choose_kind, choose_labels, choose_preprocessing, guess_backbone
from lensmount_adapters.importing.fetching import fetched
from lensmount_adapters.importing.names import CLASSIFIER, state_in_timm
from lensmount_adapters.importing.original import Forward, peft_on_timm, peft_on_vit, timm_with, vit_checkpoint
from lensmount_adapters.importing.plan import check_fits, linear_head
from lensmount_adapters.importing.request import Request
from lensmount_adapters.importing.source import Source, read_source
from lensmount_adapters.importing.trained import Trained, trained_on_timm, trained_on_vit
from lensmount_adapters.importing.vit import base_in_timm, check_same_base, check_settings
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_adapters.saving import save_tensors


@dataclass(frozen=True, eq=False)
class Case:
    """A source on its backbone, with all that is known of it."""

    source: Source
    base: Source | None
    backbone: Backbone
    trained: Trained
    labels: list[str]
    kind: str
    preprocessing: Preprocessing
    notes: tuple[str, ...]


def read_case(request: Request) -> Case:
    """Fetch and read what is to be imported, and bring it to its backbone; raises as `workflow.import_adapter` does."""
    with fetched(request.source) as path:
        source = read_source(path)
    if request.form == "lora" and source.peft:
        raise InvalidInputError("this is LoRA already", field="as", value="lora", fix="leave --as out")
    base = _base(request, source)
    backbone, notes = _backbone(request, source, base)
    if source.hugging_face:
        check_settings((base or source).settings, backbone)
    if base is not None:
        apart = check_same_base(base, backbone)
        notes = (*notes, f"the base is {backbone.name}: {_apart(apart)}")
    trained = _trained(source, base, backbone)
    check_fits(trained, backbone)
    count = len(linear_head(trained, backbone)["weight"])
    configs = [source.settings, *([base.settings] if base else [])]
    preprocessing, told = choose_preprocessing(source, base, backbone)
    return Case(
        source=source,
        base=base,
        backbone=backbone,
        trained=trained,
        labels=choose_labels(request.labels, configs, count),
        kind=choose_kind(configs),
        preprocessing=preprocessing,
        notes=(*notes, f"preprocessing: {told}"),
    )


def _apart(difference: float) -> str:
    return "the same weights to the bit" if difference == 0 else f"weights at most {difference:.1g} apart"


def _base(request: Request, source: Source) -> Source | None:
    """The model that a Hugging Face adapter was trained on; None for all others, whose base is the backbone."""
    if source.peft is None or not source.hugging_face:
        return None
    address = request.base
    if not address:
        named = source.peft.base
        if not named:
            fix = "give --base ADDRESS, a folder or hf://owner/name"
            raise InvalidInputError("adapter_config.json does not name the base model", field="base", fix=fix)
        revision = f"@{source.peft.base_revision}" if source.peft.base_revision else ""
        address = named if Path(named).is_dir() else f"hf://{named}{revision}"
    with fetched(address) as path:
        base = read_source(path)
    if base.peft or not base.hugging_face or not base.settings:
        fix = "give the folder of a ViTForImageClassification or ViTModel, with its config.json"
        raise InvalidInputError("no ViT of Hugging Face's", field="base", value=address, fix=fix)
    return base


def _backbone(request: Request, source: Source, base: Source | None) -> tuple[Backbone, tuple[str, ...]]:
    name = request.backbone or guess_backbone(source, base)
    if request.save_weights is None:
        return load_backbone(name, request.weights), ()
    if base is None:
        fix = "leave --save-weights out"
        message = "only the base of a Hugging Face adapter can become a backbone's weights"
        raise InvalidInputError(message, field="save-weights", fix=fix)
    if request.save_weights.exists():
        raise InvalidInputError(
            "the file exists", field="save-weights", value=request.save_weights, fix="give a new name"
        )
    request.save_weights.parent.mkdir(parents=True, exist_ok=True)
    save_tensors({name: own.contiguous() for name, own in base_in_timm(base).items()}, request.save_weights)
    note = f"serve it with: lensmount serve --backbone {name} --weights {request.save_weights}"
    return load_backbone(name, request.save_weights), (note,)


def _trained(source: Source, base: Source | None, backbone: Backbone) -> Trained:
    if source.peft and base:
        trained = trained_on_vit(source.peft, backbone)
        return _with_base_classifier(trained, base, backbone)
    if source.peft:
        return trained_on_timm(source.peft)
    state = dict(source.tensors)
    if source.hugging_face:
        state = state_in_timm("source", source.tensors, backbone.classifier)
    missing = sorted(backbone.model.state_dict().keys() - state.keys())
    if missing:
        fix = "give the whole state_dict of the model, and its --backbone"
        raise InvalidInputError("missing in the checkpoint", field="source", value=missing[0], fix=fix)
    return Trained({}, state)


def _with_base_classifier(trained: Trained, base: Source, backbone: Backbone) -> Trained:
    """An adapter without a classifier runs with the one of its base, where the file has one."""
    if any(name.startswith(f"{backbone.classifier}.") for name in trained.tensors):
        return trained
    own = {n: t for n, t in base.tensors.items() if n.startswith(f"{CLASSIFIER}.")}
    named = {f"{backbone.classifier}.{name.removeprefix(f'{CLASSIFIER}.')}": tensor for name, tensor in own.items()}
    return replace(trained, tensors={**trained.tensors, **named})


def original(case: Case) -> Forward:
    """The model as it was trained, run by the libraries that it was trained with."""
    labels = len(case.labels)
    if case.source.peft and case.base:
        return peft_on_vit(case.source.peft, case.base, labels)
    if case.source.peft:
        return peft_on_timm(case.source.peft, case.backbone, labels)
    if case.source.hugging_face:
        return vit_checkpoint(case.source, labels)
    return timm_with(case.backbone, case.trained.tensors, labels)
