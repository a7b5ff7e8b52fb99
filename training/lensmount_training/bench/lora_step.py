"""A step of LoRA: the tail alone in small portions, beside PEFT on timm's whole model; time and peak memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from lensmount_adapters.backbones import Backbone, load_backbone
from lensmount_adapters.timing import spread
from lensmount_training.bench.case import OURS, RIVAL, Case, Known, Peak, run_in_turns
from lensmount_training.bench.material import Material
from lensmount_training.bench.memory import peak_mib
from lensmount_training.bench.naive import BATCH, step
from lensmount_training.bench.setting import Setting
from lensmount_training.context import Context
from lensmount_training.features import PLAIN
from lensmount_training.progress import Progress
from lensmount_training.strategies import Problem
from lensmount_training.strategies.augment import Augment
from lensmount_training.strategies.descent import descend
from lensmount_training.strategies.pixel_feed import feeds
from lensmount_training.strategies.schedule import Schedule
from lensmount_training.strategies.targets import lora_targets
from lensmount_training.strategies.tuned import adapt

RANK, RATE, DECAY = 8, 2e-3, 0.01
# In a round, so that it takes seconds; rounds for each round of the longer cases.
STEPS, MORE = 4, 3
STEP = Known(
    "lora_step",
    f"a step of LoRA of rank {RANK} on all linears of the last half, {BATCH} pictures, in fp32, "
    "beside PEFT on the whole timm model with the pictures decoded in memory",
    1.2,
)
MEMORY_GOAL = 0.8
SCHEDULE = Schedule(
    epochs=STEPS,
    least_steps=1,
    learning_rate=RATE,
    batch=BATCH,
    weight_decay=DECAY,
    label_smoothing=0.0,
    class_weights=False,
)


@dataclass(frozen=True, eq=False)
class Side:
    """Something that makes `STEPS` steps, and the trained parameters by PEFT's names."""

    run: Callable[[], object]
    parameters: dict[str, torch.nn.Parameter]


def measure(setting: Setting, progress: Progress) -> Case:
    """Time first, in one process; then memory, every run in a process of its own."""
    problem, context = batch_of(setting.material, setting.backbone, setting.cache), Context(cache=setting.cache)
    sides = {OURS: ours(problem, context).run, RIVAL: rival(problem).run}
    done = run_in_turns(STEP.name, sides, MORE * setting.rounds, progress, warm_up=True)
    return STEP.beside(done, STEPS, memory=_memory(setting, progress))


def batch_of(material: Material, backbone: Backbone, cache: Path) -> Problem:
    """One batch to learn from, evenly of all training pictures, and one picture to judge by: the least there can be."""
    whole = material.problem(backbone, cache)
    places = [place * len(whole.train) // BATCH for place in range(BATCH)]
    return Problem(backbone, whole.labels, whole.train.select(places), whole.validation.select([0]), seed=0)


def ours(problem: Problem, context: Context) -> Side:
    """The strategy's own descent on cached activations, an epoch of which is one step."""
    targets = targets_of(problem)
    tuned = adapt(problem, targets, RANK, 2.0 * RANK)
    eaten = feeds(problem, min(targets), PLAIN, Augment(), context)
    run = partial(descend, tuned.learner(RATE), eaten, SCHEDULE, problem, context, {})
    return Side(run, _trained(tuned.peft))


def rival(problem: Problem) -> Side:
    """PEFT as its documentation has it, on a batch that is normalised already."""
    backbone = problem.backbone
    model: Any = copy.deepcopy(backbone.model)
    model.reset_classifier(len(problem.labels))
    names = [name for own in targets_of(problem).values() for name in own]
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=names, modules_to_save=[backbone.classifier])
    peft: Any = get_peft_model(model, config).eval()
    parameters = _trained(peft)
    optimizer = torch.optim.AdamW(parameters.values(), lr=RATE, weight_decay=DECAY)
    x = backbone.preprocessing.normalize(problem.train.pixels[:])
    return Side(partial(_steps, peft, optimizer, x, problem.train.targets), parameters)


def targets_of(problem: Problem) -> dict[int, tuple[str, ...]]:
    """All linears of the last half of the segments."""
    backbone = problem.backbone
    return dict(lora_targets(backbone, math.ceil(len(backbone.segments) / 2)))


def _steps(peft: Any, optimizer: torch.optim.Optimizer, x: Tensor, targets: Tensor) -> None:
    for _ in range(STEPS):
        step(peft, optimizer, x, targets)


def _trained(peft: Any) -> dict[str, torch.nn.Parameter]:
    return {name: own for name, own in peft.named_parameters() if own.requires_grad}


def _memory(setting: Setting, progress: Progress) -> Peak:
    """Both sides in turns, each run in a process that was started for it."""
    job = _Job(setting.backbone.name, setting.weights, setting.material, setting.cache, torch.get_num_threads())
    found: dict[str, list[float]] = {OURS: [], RIVAL: []}
    bar = progress.bar(f"{STEP.name}, memory", MORE * setting.rounds)
    for _ in range(MORE * setting.rounds):
        for side, own in found.items():
            own.append(peak_mib(partial(_prepare, side, job)))
        bar.advance()
    ratio = spread([a / b for a, b in zip(found[OURS], found[RIVAL], strict=True)])
    mib = {side: round(median(values), 2) for side, values in found.items()}
    quartiles = (round(ratio.median, 3), round(ratio.low, 3), round(ratio.high, 3))
    return Peak(mib[OURS], mib[RIVAL], *quartiles, MEMORY_GOAL)


@dataclass(frozen=True)
class _Job:
    """What a new process needs to know."""

    backbone: str
    weights: Path | None
    material: Material
    cache: Path
    threads: int


def _prepare(side: str, job: _Job) -> Callable[[], object]:
    torch.set_num_threads(job.threads)
    problem = batch_of(job.material, load_backbone(job.backbone, job.weights), job.cache)
    return ours(problem, Context(cache=job.cache)).run if side == OURS else rival(problem).run
