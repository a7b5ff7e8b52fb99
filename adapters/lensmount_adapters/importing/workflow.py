"""From an address to a package: fetch, read, bring to timm's names, pack, and compare with the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.golden import Golden
from lensmount_adapters.importing.addresses import parse_hub, scheme, without_secrets
from lensmount_adapters.importing.case import Case, original, read_case
from lensmount_adapters.importing.original import (
    Forward,
)
from lensmount_adapters.importing.packing import Description, check_out, describe, pack
from lensmount_adapters.importing.pictures import Pictures, drawn_pictures, read_pictures
from lensmount_adapters.importing.plan import changes, plan
from lensmount_adapters.importing.ranking import Trial, accuracy_of, choose, logits_of, truncated, try_ranks
from lensmount_adapters.importing.request import Progress, Report, Request, Silent
from lensmount_adapters.importing.trained import Trained
from lensmount_adapters.importing.truncation import Change, decompose, editable_count
from lensmount_adapters.package import content_hash
from lensmount_adapters.preprocessing import Preprocessing


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
    case = read_case(request)
    forward = original(case)
    pictures = _pictures(request, case)
    logits = logits_of(forward, pictures.rows, case.preprocessing)
    if request.form == "lora":
        outcome = _truncate(request, case, pictures, logits, progress)
    else:
        strategy = "imported-lora" if case.source.peft else "imported-checkpoint"
        outcome = _Outcome(case.trained, forward, strategy, _accuracy(logits, pictures), {})
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


def _pictures(request: Request, case: Case) -> Pictures:
    if request.pictures is not None:
        found = read_pictures(request.pictures, case.labels, case.preprocessing)
        return replace(found, targets=None) if case.kind == "multi_label" else found
    if request.form == "lora":
        fix = "give --pictures FOLDER: pictures as the task sees them, in folders by label if you have labels"
        raise InvalidInputError("the rank is chosen on pictures", field="pictures", fix=fix)
    return drawn_pictures(case.preprocessing, request.seed)


def _truncate(request: Request, case: Case, pictures: Pictures, original: Tensor, progress: Progress) -> _Outcome:
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
    forward = truncated(trained, case.backbone)
    notes = _truncation_notes(change, last, case)
    return _Outcome(trained, forward, "imported-truncation", metrics, settings, tuple(trials), notes)


def _truncation_notes(change: Change, chosen: Trial, case: Case) -> tuple[str, ...]:
    notes = []
    if change.dropped:
        count, first = len(change.dropped), change.dropped[0]
        notes.append(f"{count} tensors that LoRA can not carry were dropped, {first} among them")
    whole = 4 * sum(tensor.numel() for tensor in changes(case.trained, case.backbone).values())
    if chosen.size_bytes >= whole:
        notes.append(f"whole segments take {whole / 2**20:.1f} MiB and are exact: --as replaced is the better choice")
    return tuple(notes)


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


def _origin(request: Request, case: Case) -> dict[str, str | int | float | bool]:
    origin: dict[str, str | int | float | bool] = {
        "importer": "lensmount adapters import",
        "source": without_secrets(request.source),
        "form": request.form if case.source.peft is None else "lora",
    }
    if scheme(request.source) == "hf":
        origin["revision"] = parse_hub(request.source).revision
    if case.base and case.source.peft:
        origin["base"] = without_secrets(request.base or case.source.peft.base)
        origin["base_hash"] = case.base.data_hash
    return origin


def _remarks(pictures: Pictures, case: Case) -> tuple[str, ...]:
    notes = []
    if pictures.drawn:
        notes.append("golden pictures were drawn from the seed; --pictures FOLDER takes yours")
    if all(label.startswith("LABEL_") for label in case.labels):
        notes.append("the labels are transformers' placeholders; --labels names them")
    if case.source.peft and case.base is None:
        notes.append("PEFT's files do not tell the weights that it was trained on: the backbone's were taken")
    return tuple(notes)
