"""From an address to a package: fetch, read, bring to timm's names, pack, and compare with the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone, load_backbone
from lensmount_adapters.golden import Golden
from lensmount_adapters.importing.addresses import parse_hub, scheme
from lensmount_adapters.importing.describing import choose_kind, choose_labels, choose_preprocessing, guess_backbone
from lensmount_adapters.importing.fetching import fetched
from lensmount_adapters.importing.names import CLASSIFIER, state_in_timm
from lensmount_adapters.importing.original import (
    Forward,
    peft_on_timm,
    peft_on_vit,
    timm_with,
    vit_checkpoint,
)
from lensmount_adapters.importing.packing import Description, check_out, describe, pack
from lensmount_adapters.importing.pictures import Pictures, drawn_pictures, read_pictures
from lensmount_adapters.importing.plan import linear_head, plan
from lensmount_adapters.importing.ranking import Trial, accuracy_of, choose, logits_of, truncated, try_ranks
from lensmount_adapters.importing.source import Source, read_source
from lensmount_adapters.importing.trained import Trained, trained_on_timm, trained_on_vit
from lensmount_adapters.importing.truncation import decompose, editable_count
from lensmount_adapters.importing.vit import check_same_base, check_settings
from lensmount_adapters.manifest import Manifest
from lensmount_adapters.package import content_hash
from lensmount_adapters.preprocessing import Preprocessing

Form = Literal["replaced", "lora"]


@dataclass(frozen=True)
class Request:
    """What to import and how; empty and None leave the choice to the files of the source.

    `source` and `base` are addresses, `weights` the backbone's file, `save_weights` a new file for weights of a
    backbone made of a Hugging Face model; `form` is for whole checkpoints, `max_loss` a share of the pictures.
    """

    source: str
    out: Path
    task: str
    labels: tuple[str, ...] = ()
    backbone: str = ""
    weights: Path | None = None
    base: str = ""
    save_weights: Path | None = None
    pictures: Path | None = None
    form: Form = "replaced"
    max_loss: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """What came of an import.

    `difference` is the largest of a golden logit between package and original (for a truncation: the truncated
    model), relative to the largest one; `trials` are the ranks that were tried; `notes` are sentences for people.
    """

    out: Path
    content_hash: str
    size_bytes: int
    manifest: Manifest
    difference: float
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]


class Progress(Protocol):
    """Where an import says how far it is."""

    def stage(self, label: str, total: int) -> Callable[[], object]:
        """Start a stage of `total` steps; call what comes back for each."""


class Silent:
    """Says nothing."""

    def stage(self, label: str, total: int) -> Callable[[], object]:  # noqa: ARG002 - the protocol has them
        """A stage that nobody sees."""
        return lambda: None


@dataclass(frozen=True, eq=False)
class _Case:
    """A source on its backbone, with all that is known of it."""

    source: Source
    base: Source | None
    backbone: Backbone
    trained: Trained
    labels: list[str]
    kind: str
    preprocessing: Preprocessing
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What is packed: edits, whose logits are golden, figures and settings of how it was made."""

    trained: Trained
    forward: Forward
    strategy: str
    metrics: Mapping[str, float]
    settings: Mapping[str, str | int | float | bool]
    trials: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()


def import_adapter(request: Request, progress: Progress | None = None) -> Report:
    """Import what `request` names and write its package.

    Raises NotFoundError, UnavailableError and MissingExtraError for addresses that can not be read, InvalidInputError
    and TooLargeError for files, settings or places that can not work, IncompatibleError for another backbone than it
    was trained on; then there is nothing at `out`.
    """
    progress = progress or Silent()
    check_out(request.out)
    case = _case(request)
    original = _original(case)
    pictures = _pictures(request, case)
    logits = logits_of(original, pictures.rows, case.preprocessing)
    if request.form == "lora":
        outcome = _truncate(request, case, pictures, logits, progress)
    else:
        strategy = "imported-lora" if case.source.peft else "imported-checkpoint"
        outcome = _Outcome(case.trained, original, strategy, _accuracy(logits, pictures), {})
    planned = plan(outcome.trained, case.backbone)
    description = Description(
        task=request.task,
        labels=case.labels,
        kind=case.kind,
        strategy=outcome.strategy,
        preprocessing=case.preprocessing,
        metrics=outcome.metrics,
        settings={**_origin(request, case), **outcome.settings},
        data_hash=case.source.data_hash,
        seed=request.seed,
    )
    manifest = describe(description, planned, case.backbone)
    golden = _golden(outcome.forward, pictures, case.preprocessing)
    difference = pack(request.out, manifest, planned, golden, case.backbone)
    return Report(
        out=request.out,
        content_hash=content_hash(request.out),
        size_bytes=sum(path.stat().st_size for path in request.out.iterdir()),
        manifest=manifest,
        difference=difference,
        trials=outcome.trials,
        notes=(*case.notes, *_remarks(pictures, case), *outcome.notes),
    )


def _case(request: Request) -> _Case:
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
    count = len(linear_head(trained, backbone)["weight"])
    configs = [source.settings, *([base.settings] if base else [])]
    preprocessing, told = choose_preprocessing(source, base, backbone)
    return _Case(
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
    state = state_in_timm("base", base.tensors, CLASSIFIER)
    state = {name: own for name, own in state.items() if not name.startswith(f"{CLASSIFIER}.")}
    request.save_weights.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: own.contiguous() for name, own in state.items()}, request.save_weights)
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


def _original(case: _Case) -> Forward:
    labels = len(case.labels)
    if case.source.peft and case.base:
        return peft_on_vit(case.source.peft, case.base, labels)
    if case.source.peft:
        return peft_on_timm(case.source.peft, case.backbone, labels)
    if case.source.hugging_face:
        return vit_checkpoint(case.source, labels)
    return timm_with(case.backbone, case.trained.tensors, labels)


def _pictures(request: Request, case: _Case) -> Pictures:
    if request.pictures is not None:
        found = read_pictures(request.pictures, case.labels, case.preprocessing)
        return replace(found, targets=None) if case.kind == "multi_label" else found
    if request.form == "lora":
        fix = "give --pictures FOLDER: pictures as the task sees them, in folders by label if you have labels"
        raise InvalidInputError("the rank is chosen on pictures", field="pictures", fix=fix)
    return drawn_pictures(case.preprocessing, request.seed)


def _truncate(request: Request, case: _Case, pictures: Pictures, original: Tensor, progress: Progress) -> _Outcome:
    count = editable_count(case.trained, case.backbone)
    change = decompose(case.trained, case.backbone, progress.stage("decomposing", count))
    trials: list[Trial] = []
    tried = try_ranks(change, case.backbone, pictures, original, case.preprocessing, case.kind)
    rank = choose(_counted(tried, progress), request.max_loss, trials.append)
    trials[-1] = replace(trials[-1], chosen=True)
    trained, last = change.at(rank), trials[-1]
    metrics = {
        **_accuracy(original, pictures, "original_accuracy"),
        **({} if last.accuracy is None else {"accuracy": last.accuracy}),
        "agreement": last.agreement,
        "loss": last.loss,
        "largest_difference": last.difference,
        "pictures": len(pictures.rows),
    }
    settings: dict[str, str | int | float | bool] = {
        "rank": rank,
        "max_loss": request.max_loss,
        "dropped_tensors": len(change.dropped),
    }
    notes: tuple[str, ...] = ()
    if change.dropped:
        notes = (f"{len(change.dropped)} tensors that LoRA can not carry were dropped, {change.dropped[0]} among them",)
    forward = truncated(trained, case.backbone)
    return _Outcome(trained, forward, "imported-truncation", metrics, settings, tuple(trials), notes)


def _counted(trials: Iterator[Trial], progress: Progress) -> Iterator[Trial]:
    advance = progress.stage("trying ranks", 9)
    for trial in trials:
        advance()
        yield trial


def _accuracy(logits: Tensor, pictures: Pictures, name: str = "accuracy") -> dict[str, float]:
    accuracy = accuracy_of(logits, pictures)
    return {} if accuracy is None else {name: accuracy, "pictures": len(pictures.rows)}


def _golden(forward: Forward, pictures: Pictures, preprocessing: Preprocessing) -> Golden:
    rows = torch.stack([preprocessing.prepare(shot) for shot in pictures.golden])
    return Golden(pictures.golden, logits_of(forward, rows, preprocessing))


def _origin(request: Request, case: _Case) -> dict[str, str | int | float | bool]:
    origin: dict[str, str | int | float | bool] = {
        "importer": "lensmount adapters import",
        "source": request.source,
        "form": request.form if case.source.peft is None else "lora",
    }
    if scheme(request.source) == "hf":
        origin["revision"] = parse_hub(request.source).revision
    if case.base and case.source.peft:
        origin["base"] = request.base or case.source.peft.base
        origin["base_hash"] = case.base.data_hash
    return origin


def _remarks(pictures: Pictures, case: _Case) -> tuple[str, ...]:
    notes = []
    if pictures.drawn:
        notes.append("golden pictures were drawn from the seed; --pictures FOLDER takes yours")
    if all(label.startswith("LABEL_") for label in case.labels):
        notes.append("the labels are transformers' placeholders; --labels names them")
    if case.source.peft and case.base is None:
        notes.append("PEFT's files do not tell the weights that it was trained on: the backbone's were taken")
    return tuple(notes)
