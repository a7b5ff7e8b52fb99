"""Depth is paid for only where it is worth it: planted problems in which it is not, and in which it is."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor

from factories import random_backbone
from lensmount_adapters.manifest import Edit
from lensmount_training.context import Context
from lensmount_training.depth import Depth, Sweep, standard_error, sweep, usual_depths
from lensmount_training.progress import NoProgress
from lensmount_training.strategies import FeatureExtraction, Lora, Problem, Strategy, Trained
from lensmount_training.strategies.choice import Option, cheapest_good
from lensmount_training.strategies.schedule import Schedule
from problems import easy_problem, hard_problem

NOTHING = Trained({}, lambda x: x, {})


@dataclass(frozen=True)
class Planted:
    """Answers rightly for a given share of the validation pictures, whatever they show."""

    name: ClassVar[str] = "planted"

    last: int
    share: float

    def train(self, problem: Problem, context: Context) -> Trained:  # noqa: ARG002
        names = [segment.name for segment in problem.backbone.segments]
        edits = tuple(Edit(segment=name, kind="replace") for name in names[len(names) - self.last :])
        count = len(problem.validation)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(problem.seed))
        wrong = order < round((1 - self.share) * count)
        answers = iter((problem.validation.targets + wrong) % 3)

        def forward(x: Tensor) -> Tensor:
            return torch.stack([torch.eye(3)[next(answers)] for _ in x])

        return Trained({}, forward, {}, edits)


def planted(shares: Mapping[int, float], context: Context, seeds: tuple[int, ...] = ()) -> Sweep:
    problem = hard_problem(count=60)
    return sweep(problem, context, lambda last: Planted(last, shares[last]), tuple(shares), seeds, ("identity",))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(cache=tmp_path)


def test_where_depth_does_not_matter_the_head_alone_is_taken(context: Context) -> None:
    found = planted({8: 0.9, 4: 0.9, 0: 0.9}, context)
    assert found.best.last == 0
    assert [own.last for own in found.depths] == [0, 4, 8]
    assert [own.seconds for own in found.depths] == sorted(own.seconds for own in found.depths)
    assert found.depths[0].seconds == 0


def test_where_it_does_the_deep_one_is_taken(context: Context) -> None:
    assert planted({0: 0.4, 4: 0.6, 8: 0.97}, context).best.last == 8


def test_no_more_than_is_needed(context: Context) -> None:
    assert planted({0: 0.4, 4: 0.95, 8: 0.97}, context).best.last == 4


def test_seeds_are_trained_apart_and_counted_together(context: Context) -> None:
    one, three = planted({0: 0.8}, context, (5,)), planted({0: 0.8}, context, (5, 6, 7))
    assert one.depths[0].accuracy == pytest.approx(0.8) == three.depths[0].accuracy
    assert 0 < three.depths[0].error < one.depths[0].error  # each is wrong about other pictures


def test_real_strategies(context: Context) -> None:
    """Brightness needs no depth; and one pass serves all depths."""
    bars: list[str] = []

    class Bars(NoProgress):
        def bar(self, label: str, total: int) -> Bars:  # noqa: ARG002
            bars.append(label)
            return self

    schedule = Schedule(epochs=2, least_steps=1, learning_rate=1e-2)

    def make(last: int) -> Strategy:
        return Lora(rank=2, last_segments=last, schedule=schedule) if last else FeatureExtraction()

    problem = easy_problem()
    found = sweep(problem, replace(context, progress=Bars()), make, (0, 2, 4))
    assert found.best.last == 0
    assert bars.count("running the backbone") == 2  # to learn from and to choose by
    assert {own.last for own in found.depths} == {0, 2, 4}


def test_usual_depths_end_where_blocks_do() -> None:
    assert usual_depths(random_backbone("test_vit")) == (0, 2, 3, 5, 8)
    lite = random_backbone("test_efficientnet")
    assert usual_depths(lite)[-1] == len(lite.segments)


def test_the_table_and_the_plot(tmp_path: Path) -> None:
    depths = tuple(
        Depth(last, accuracy, 0.02, last / 500, NOTHING) for last, accuracy in ((0, 0.7), (2, 0.9), (7, 0.91))
    )
    found = Sweep(depths, 1)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(found.table())
    text = console.export_text()
    assert text.count("taken") == 1
    assert "0.900" in text
    (tmp_path / "depth.png").write_bytes(found.picture)
    assert [own.taken for own in found.rows] == [place == 1 for place in range(len(depths))]
    assert (tmp_path / "depth.png").read_bytes().startswith(b"\x89PNG")


def test_the_error_is_that_of_a_mean() -> None:
    right = torch.tensor([[1.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    assert standard_error(right) == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert standard_error(right.repeat(3, 1)) == pytest.approx(standard_error(right))
    assert standard_error(torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)) == pytest.approx(0.5)


options = st.builds(Option, st.floats(0, 9), st.floats(0, 1), st.floats(0, 0.3))


@given(st.lists(options, min_size=1, max_size=6))
def test_the_rule(found: list[Option]) -> None:
    taken = found[cheapest_good(found)]
    best = max(found, key=lambda own: own.accuracy)
    assert taken.accuracy >= best.accuracy - best.error
    assert not [own for own in found if own.accuracy >= best.accuracy - best.error and own.cost < taken.cost]
