"""From a folder of pictures to a package: load, split, train, validate, test once, pack."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.manifest import Manifest
from lensmount_adapters.package import content_hash
from lensmount_training.data import Pictures, Skipped, read_folder
from lensmount_training.evaluate import Scores, predict, score
from lensmount_training.packing import Result, pack
from lensmount_training.places import choose_out
from lensmount_training.progress import NoProgress, Progress
from lensmount_training.specimens import read_specimens
from lensmount_training.split import split_once, take
from lensmount_training.strategies import Problem, Strategy, Trained


@dataclass(frozen=True)
class Run:
    """What came of a run: the package in `out`, its figures, and what it took.

    `trained_parameters` were learned, of a backbone with `backbone_parameters`; `seconds` is the
    whole run from reading the first picture to the package.
    """

    out: Path
    content_hash: str
    manifest: Manifest
    validation: Scores
    test: Scores
    train_pictures: int
    skipped: tuple[Skipped, ...]
    trained_parameters: int
    backbone_parameters: int
    seconds: float


def train(
    folder: Path,
    task: str,
    strategy: Strategy,
    backbone: Backbone,
    out: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Run:
    """Train an adapter on an ImageFolder and write its package at `out` (runs/TASK by default).

    The test set is drawn first, kept from everything that chooses, and judged once at the end.
    Raises InvalidInputError and TooLargeError for data, settings or places that can not work;
    then there is nothing at `out`.
    """
    started = time.perf_counter()
    progress = progress or NoProgress()
    target = choose_out(task, out, progress)
    dataset = read_folder(folder, backbone.preprocessing, progress)
    split = split_once(dataset, seed, target)
    specimens = read_specimens(folder, split.train)
    problem = Problem(backbone, dataset.labels, take(dataset, split.train), take(dataset, split.validation), seed)
    trained = strategy.train(problem, progress)
    validation = _judge(problem, trained, problem.validation, "validating", progress)
    sealed = take(dataset, split.test)
    test = _judge(problem, trained, sealed, "opening the test set", progress)
    result = Result(
        task, strategy.name, problem, trained, sealed, validation, test, data_hash=dataset.hash, specimens=specimens
    )
    return Run(
        manifest=pack(result, target),
        out=target,
        content_hash=content_hash(target),
        validation=validation,
        test=test,
        train_pictures=len(problem.train),
        skipped=dataset.skipped,
        trained_parameters=trained.parameters,
        backbone_parameters=sum(parameter.numel() for parameter in backbone.model.parameters()),
        seconds=time.perf_counter() - started,
    )


def _judge(problem: Problem, trained: Trained, pictures: Pictures, label: str, progress: Progress) -> Scores:
    bar = progress.bar(label, len(pictures))
    logits = predict(trained.forward, problem.backbone, pictures, bar)
    return score(logits, pictures.targets, problem.labels, problem.seed)
