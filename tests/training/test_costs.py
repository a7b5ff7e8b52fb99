"""What a task costs: the segments from its fork on and its low-rank edits."""

from __future__ import annotations

from pathlib import Path

import torch

from factories import pictures, prepared, random_backbone
from lensmount_training.context import Context
from lensmount_training.costs import Times, _edited, deltas_of, marginal_seconds, segment_times
from lensmount_training.strategies import FeatureExtraction, Lora
from lensmount_training.strategies.schedule import Schedule
from problems import hard_problem

QUICK = Schedule(epochs=1, least_steps=1, learning_rate=1e-2)


def test_a_tail_is_the_sum_of_its_segments() -> None:
    times = Times((4.0, 2.0, 1.0))
    assert [times.tail(fork) for fork in range(4)] == [7, 3, 1, 0]


def test_every_segment_takes_time() -> None:
    backbone = random_backbone("test_vit")
    times = segment_times(backbone, repetitions=3)
    assert len(times.segments) == len(backbone.segments)
    assert min(times.segments) > 0


def test_a_head_alone_costs_nothing_and_edits_what_lies_behind_their_fork(tmp_path: Path) -> None:
    problem = hard_problem(count=8)
    context = Context(cache=tmp_path)
    plain = Times(tuple(float(2**index) for index in range(8)))
    head = FeatureExtraction(("identity",)).train(problem, context)
    edited = Lora(rank=2, last_segments=3, schedule=QUICK).train(problem, context)
    assert marginal_seconds(problem.backbone, head, plain, 1) == 0
    assert marginal_seconds(problem.backbone, edited, plain, 1) == plain.tail(5)


def test_what_is_measured_is_what_is_served(tmp_path: Path) -> None:
    """The hooks that are timed compute what the merged model does, and are gone afterwards."""
    problem = hard_problem(count=8)
    backbone = problem.backbone
    trained = Lora(rank=2, last_segments=3, schedule=QUICK).train(problem, Context(cache=tmp_path))
    head = (trained.tensors[f"{backbone.classifier}.{what}"] for what in ("weight", "bias"))
    x = prepared(backbone, pictures(2))
    with torch.no_grad():
        before = backbone.forward_features(x)
        with _edited(backbone.model, deltas_of(trained)):
            features = backbone.pool(backbone.forward_features(x))
        torch.testing.assert_close(
            torch.nn.functional.linear(features, *head), trained.forward(x), rtol=1e-4, atol=1e-4
        )
        assert torch.equal(backbone.forward_features(x), before)


def test_without_edits_there_are_no_deltas(tmp_path: Path) -> None:
    trained = FeatureExtraction(("identity",)).train(hard_problem(count=8), Context(cache=tmp_path))
    assert deltas_of(trained) == {}
