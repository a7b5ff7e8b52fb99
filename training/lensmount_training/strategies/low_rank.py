"""Fine-tuned segments in LoRA's form, of the lowest rank that the validation pictures can not tell from them."""

from __future__ import annotations

from lensmount_adapters.importing.original import timm_with
from lensmount_adapters.importing.pictures import Pictures
from lensmount_adapters.importing.plan import plan
from lensmount_adapters.importing.ranking import choose, logits_of, truncated, try_ranks
from lensmount_adapters.importing.trained import Trained as Imported
from lensmount_adapters.importing.truncation import decompose
from lensmount_training.strategies.strategy import Problem, Trained


def as_low_rank(trained: Trained, problem: Problem, max_loss: float) -> Trained:
    """The best low-rank stand-in for replaced segments.

    The rank is the lowest that loses at most `max_loss` of the accuracy on the validation pictures, for multi-label
    of agreement with what it stands in for. Raises InvalidInputError when there is none.
    """
    backbone, device = problem.backbone, problem.backbone.device
    change = decompose(Imported({}, trained.tensors), backbone)
    targets = problem.validation.targets.to(device) if problem.kind == "single_label" else None
    shown = Pictures(problem.validation.pixels[:].to(device), targets, ())
    original = logits_of(timm_with(backbone, trained.tensors, len(problem.labels)), shown.rows, backbone.preprocessing)
    trials = try_ranks(change, backbone, shown, original, backbone.preprocessing, problem.kind)
    rank = choose(trials, max_loss, lambda _: None)
    chosen = change.at(rank)
    packed = plan(chosen, backbone)
    kept = sum(tensor.numel() for tensor in packed.tensors.values())
    return Trained(
        packed.tensors,
        truncated(chosen, backbone),
        {**trained.settings, "rank": rank},
        packed.edits,
        packed.lora,
        {**trained.metrics, "kept_parameters": kept},
    )
