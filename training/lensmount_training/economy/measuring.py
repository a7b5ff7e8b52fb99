"""Train and judge one cell after the other, what is cheap first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch

from lensmount_adapters.backbones import Backbone
from lensmount_training.context import Context
from lensmount_training.economy.cells import ALL, Cell, Measured, Results
from lensmount_training.economy.material import Material, problem_of
from lensmount_training.evaluation import score
from lensmount_training.evaluation.predicting import predict_adapter
from lensmount_training.packing import adapter_of
from lensmount_training.strategies import FeatureExtraction, FineTune, FromScratch, Lora, Strategy

# From the cheapest to the dearest.
STRATEGIES: Mapping[str, Callable[[], Strategy]] = {
    "features": FeatureExtraction,
    "lora": lambda: Lora(rank=8),
    "finetune": FineTune,
    "full": lambda: FineTune(full=True, deep_rate=1e-4),
    "scratch": FromScratch,
}
LABELS = (5, 10, 25, 50, 100, ALL)


def cells_of(materials: Sequence[Material], strategies: Sequence[str], labels: Sequence[int], seeds: int) -> list[Cell]:
    """All that is to be measured: seed after seed, so that what is there at any time is even.

    Where a class has not as many pictures, that number of labels is left out.
    """
    return [
        Cell(material.name, count, strategy, seed)
        for seed in range(seeds)
        for strategy in strategies
        for material in materials
        for count in labels
        if count == ALL or count < _most(material)
    ]


def measure(
    cells: Sequence[Cell], materials: Mapping[str, Material], backbone: Backbone, results: Results, context: Context
) -> None:
    """Measure what is missing of `cells` and keep each result at once."""
    missing = results.missing(cells)
    bar = context.progress.bar("label economy", len(missing))
    for cell in missing:
        results.add(_one(cell, materials[cell.data], backbone, context))
        bar.advance(1, f"{cell.data}, {cell.strategy}, {cell.labels or 'all'} labels, seed {cell.seed}")


def _one(cell: Cell, material: Material, backbone: Backbone, context: Context) -> Measured:
    start = time.perf_counter()
    quiet = Context(cache=context.cache)
    problem, used = problem_of(material, backbone, cell.labels, cell.seed)
    trained = STRATEGIES[cell.strategy]().train(problem, quiet)
    test = material.dataset.take(material.test)
    logits = predict_adapter(adapter_of(problem, trained), backbone, test, quiet.progress.bar("", 1))
    scores = score(logits, test.targets, problem.labels, kind=problem.kind, seed=cell.seed)
    return Measured(cell, scores.accuracy, scores.macro_f1, used, len(test), round(time.perf_counter() - start, 1))


def _most(material: Material) -> int:
    """Labels of the largest class that may be learned from."""
    pool = set(material.pool)
    counts = torch.zeros(len(material.dataset.labels))
    for picture in material.dataset.pictures:
        if picture.file in pool:
            counts[list(picture.labels)] += 1
    return int(counts.max())
