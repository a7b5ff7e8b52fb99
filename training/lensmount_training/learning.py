"""The baseline, whatever the data or the recipe call for beyond it, and the choice between them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from lensmount_training.chooser import BASELINE, LORA, Gain, gain, leaves_room, propose
from lensmount_training.context import Context
from lensmount_training.depth import Sweep, sweep, usual_depths
from lensmount_training.evaluation.predicting import predict_adapter
from lensmount_training.menu import strategy_of
from lensmount_training.packing import adapter_of
from lensmount_training.processes import current
from lensmount_training.recipe import AUTO, Recipe
from lensmount_training.stages import Kept, Learned, once
from lensmount_training.strategies import Problem, Strategy, Trained

# How deep edits go matters more than their rank.
SWEPT_RANK = 8


@dataclass(frozen=True, eq=False)
class Candidate:
    """One of what was trained; `gain` over the baseline, None for the baseline itself."""

    learned: Learned
    gain: Gain | None = None


@dataclass(frozen=True, eq=False)
class Choice:
    """All that was trained, the baseline first, what was taken, and why, in sentences."""

    candidates: tuple[Candidate, ...]
    chosen: Learned
    reason: str
    depth: Sweep | None = None


def learn(recipe: Recipe, problem: Problem, domain: str | None, context: Context) -> Choice:
    """Train the baseline and the candidates, and take the best that is worth it.

    A strategy that was asked for by name is taken whatever it brings; with "auto" it must beat the baseline by more
    than the noise.
    """
    baseline = _stage(strategy_of(recipe, BASELINE), problem, context)
    names, full, reason = _asked(recipe, problem, domain)
    shown = baseline.validation, problem.validation.targets
    if recipe.strategy == AUTO and names and not leaves_room(*shown, problem.kind, problem.seed):
        names, reason = (), f"{reason}; but a head alone is so good that nothing could be shown to be better"
    context.progress.say(reason)
    candidates = [Candidate(baseline)]
    depth: Sweep | None = None
    for name in names:
        if name == LORA and recipe.measures_depth:
            start = time.perf_counter()
            depth = _depth(recipe, problem, context)
            learned = _at_depth(recipe, depth, problem, context, start)
        else:
            last = recipe.last if isinstance(recipe.last, int) else None
            learned = _stage(strategy_of(recipe, name, last, full=full), problem, context)
        if learned is None:
            continue
        own = gain(learned.validation, baseline.validation, problem.validation.targets, problem.kind, problem.seed)
        context.progress.say(f"{name}: {own} over the frozen backbone on the validation pictures")
        candidates.append(Candidate(learned, own))
    chosen, verdict = _choose(recipe, candidates)
    if depth and depth.best.last == 0:
        verdict = f"No depth beats a head alone by more than the noise. {verdict}"
    return Choice(tuple(candidates), chosen, f"{reason}. {verdict}", depth)


def _asked(recipe: Recipe, problem: Problem, domain: str | None) -> tuple[tuple[str, ...], bool, str]:
    """What to train beyond the baseline: names, whether all segments at once, and why."""
    if recipe.strategy == AUTO:
        proposal = propose(_smallest(problem), domain)
        return proposal.names, proposal.full or recipe.full, proposal.reason
    names = () if recipe.strategy == BASELINE else (recipe.strategy,)
    return names, recipe.full, f"{recipe.strategy} was asked for"


def _smallest(problem: Problem) -> int:
    """Training pictures of the smallest class."""
    targets = problem.train.targets
    if problem.kind == "multi_label":
        return int(targets.sum(0).min())
    return int(torch.bincount(targets, minlength=len(problem.labels)).min())


def _stage(strategy: Strategy, problem: Problem, context: Context) -> Learned:
    """Train, unless it was trained before the run was killed, and answer for the validation pictures."""
    own = context.below(strategy.name)
    start = time.perf_counter()
    return once(own.checkpoints, lambda: _learned(strategy.name, strategy.train(problem, own), problem, own, start))


def _learned(name: str, trained: Trained, problem: Problem, context: Context, start: float) -> Learned:
    bar = context.progress.bar("validating", len(problem.validation))
    logits = predict_adapter(adapter_of(problem, trained), problem.backbone, problem.validation, bar)
    return Learned(name, Kept.of(trained), logits, time.perf_counter() - start)


def _at_depth(recipe: Recipe, depth: Sweep, problem: Problem, context: Context, start: float) -> Learned | None:
    """LoRA as deep as was found to be enough; None where that is not at all.

    Where no ranks are tried, what the sweep trained is taken as it is.
    """
    last = current().same(depth.best.last)  # by time, which each process measures for itself
    if last == 0:
        return None
    if recipe.tries_ranks:
        return _stage(strategy_of(recipe, LORA, last), problem, context)
    (found,) = [own.trained for own in depth.depths if own.last == last]
    own = context.below(LORA)
    return once(own.checkpoints, lambda: _learned(LORA, found, problem, own, start))


def _depth(recipe: Recipe, problem: Problem, context: Context) -> Sweep:
    """How deep LoRA needs to go, by measurement."""
    at_one_rank = recipe.model_copy(update={"rank": recipe.rank if isinstance(recipe.rank, int) else SWEPT_RANK})

    def make(last: int) -> Strategy:
        return strategy_of(at_one_rank, LORA, last) if last else strategy_of(recipe, BASELINE)

    return sweep(problem, context.below("depth"), make, usual_depths(problem.backbone), views=recipe.views)


def _choose(recipe: Recipe, candidates: list[Candidate]) -> tuple[Learned, str]:
    baseline, *others = candidates
    if not others:
        return baseline.learned, "The frozen backbone with a head is what there is"
    best = max(others, key=lambda own: own.gain.difference if own.gain else 0.0)
    pictures = len(best.learned.validation)
    found = f"{best.learned.name} brings {best.gain} over the frozen backbone on {pictures} pictures"
    if recipe.strategy != AUTO and not (best.gain and best.gain.kept):
        return best.learned, f"{found}, no more than their noise: --strategy features costs a server less"
    if recipe.strategy != AUTO:
        return best.learned, found
    if best.gain and best.gain.kept:
        return best.learned, f"{found}: kept"
    return baseline.learned, f"{found}, no more than their noise: the frozen backbone is kept"
