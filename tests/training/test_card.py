"""Labels come from folder names: whatever they hold, the card stays a table."""

from __future__ import annotations

import torch

from factories import manifest, random_backbone
from lensmount_training.card import model_card
from lensmount_training.evaluation import score


def test_labels_can_not_become_markup() -> None:
    labels = ("a|b", "<img src=x>", "[link](http://x)")
    described = manifest(random_backbone(), "defect", 3).model_copy(update={"labels": list(labels)})
    scores = score(torch.eye(3), torch.arange(3), labels)
    card = model_card(described, {"train": [1, 2, 3]}, scores, scores)
    assert "a\\|b" in card
    assert "<img" not in card.replace("\\<img", "")
    assert "[link]" not in card
    rows = [line for line in card.splitlines() if line.startswith("| a\\|b |")]
    assert len(rows) == 2  # per class, and the confusion matrix


def test_the_parts_of_the_data_are_counted() -> None:
    described = manifest(random_backbone(), "defect", 2)
    scores = score(torch.eye(2), torch.arange(2), ("a", "b"))
    card = model_card(described, {"train": [7, 5], "sealed test": [2, 2]}, scores, scores)
    assert "| train | 7 | 5 | 12 |" in card
    assert "| sealed test | 2 | 2 | 4 |" in card
