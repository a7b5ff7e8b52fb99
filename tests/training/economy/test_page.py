"""What was measured survives an interruption, and the page claims no more than it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensmount.errors import InvalidInputError
from lensmount_training.economy.cells import ALL, Cell, Measured, Results
from lensmount_training.economy.page import figure, grids, markdown


def measured(strategy: str, labels: int, seed: int, accuracy: float) -> Measured:
    return Measured(Cell("parts", labels, strategy, seed), accuracy, accuracy - 0.01, labels or 40, 100, 1.0)


def page(*own: Measured) -> str:
    return markdown(grids({each.cell: each for each in own}), "Labels", "How.")


def test_results_go_on_where_they_were(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    own = measured("lora", 10, 0, 0.7)
    Results(path).add(own)
    with path.open("a") as file:
        file.write('{"cell": {"data"')
    again = Results(path)
    other = Cell("parts", 10, "lora", 1)
    assert again.missing([own.cell, other]) == [other]
    assert again.measured[own.cell] == own


def test_a_line_that_is_no_measurement(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(InvalidInputError, match="not a measurement"):
        Results(tmp_path / "results.jsonl")


def test_the_interval_is_students() -> None:
    own = figure([0.6, 0.7, 0.8])
    assert own.value == pytest.approx(0.7)
    assert own.half == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)


def test_a_clear_gain_is_said_and_noise_is_not() -> None:
    floor = [measured("features", 10, seed, 0.6 + 0.01 * seed) for seed in range(3)]
    better = page(*floor, *(measured("lora", 10, seed, 0.7 + 0.01 * seed) for seed in range(3)))
    assert "10 labels: LoRA (last half) beats feature extraction by 10.0 ± 0.0 points" in better
    noise = page(*floor, *(measured("lora", 10, seed, accuracy) for seed, accuracy in enumerate((0.5, 0.7, 0.66))))
    assert "nothing beats feature extraction by more than the spread of the seeds: not LoRA (last half)." in noise


def test_every_strategy_that_does_not_beat_the_floor_is_named() -> None:
    gains = {"lora": 0.1, "finetune": 0.05, "full": -0.1, "scratch": -0.2}
    own = [measured("features", 10, seed, 0.6 + 0.01 * seed) for seed in range(3)]
    for strategy, gain in gains.items():
        own += [measured(strategy, 10, seed, 0.6 + 0.01 * seed + gain) for seed in range(3)]
    assert (
        "- 10 labels: LoRA (last half) beats feature extraction by 10.0 ± 0.0 points, progressive unfreezing too; "
        "full fine-tuning and from scratch do not by more than the spread of the seeds."
    ) in page(*own)
    assert (
        "- 10 labels: LoRA (last half) beats feature extraction by 10.0 ± 0.0 points, progressive unfreezing too."
        in page(*(each for each in own if each.cell.strategy in {"features", "lora", "finetune"}))
    )
    assert "by more than the spread of the seeds: not full fine-tuning, not from scratch." in page(
        *(each for each in own if each.cell.strategy in {"features", "full", "scratch"})
    )


def test_one_seed_of_a_strategy_is_not_judged() -> None:
    own = [measured(strategy, 10, seed, 0.6 + seed / 100) for strategy in ("features", "lora") for seed in range(3)]
    text = page(*own, measured("scratch", 10, 0, 0.1))
    assert "spread of the seeds: not LoRA (last half)." in text


def test_all_labels_come_last() -> None:
    text = page(measured("features", ALL, 0, 0.9), measured("features", 10, 0, 0.6))
    assert "| accuracy, % | 10 | all (40) |" in text


def test_one_seed_says_nothing() -> None:
    text = page(measured("features", 10, 0, 0.6), measured("lora", 10, 0, 0.9))
    assert "10 labels: one seed says nothing" in text
