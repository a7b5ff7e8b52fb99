"""All figures of a part together: names, requirements, slices, the worst pictures, words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lensmount.errors import InvalidInputError
from lensmount_training.data import Facts, Picture
from lensmount_training.evaluation import Calibration
from lensmount_training.evaluation.judging import Evaluation, Requirement, evaluate, metrics, part_metrics
from lensmount_training.evaluation.verdict import verdict

LABELS = ("crack", "hole", "ok")


def part(count: int, seed: int = 0, strength: float = 3.0) -> tuple[Tensor, Tensor, tuple[Picture, ...]]:
    """Logits, targets and pictures: every third from a camera on which the adapter guesses, all dark ones there."""
    random = np.random.default_rng(seed)
    targets = torch.arange(count) % 3
    bad = np.arange(count) % 4 == 0
    noise = torch.from_numpy(random.normal(0, 1, (count, 3))).float()
    logits = strength * F.one_hot(targets, 3) * torch.from_numpy(~bad)[:, None] + noise
    pictures = tuple(
        Picture(
            file=f"{LABELS[i % 3]}/{i:03}.png",
            labels=(i % 3,),
            digest=f"{i:064x}",
            group=f"roll-{i // 10}" if i >= count // 2 else "",
            source="dusty" if bad[i] else "clean",
            facts=Facts(64, 64, 0.1 if bad[i] else 0.5 + random.random() / 2, float(random.random())),
        )
        for i in range(count)
    )
    return logits, targets, pictures


@pytest.fixture
def own() -> Evaluation:
    return evaluate(part(240)[0], part(240)[1], LABELS, pictures=part(240)[2])


def test_the_numbers_of_task_json(own: Evaluation) -> None:
    found = metrics(own)
    scores = own.scores
    assert found["accuracy"] == scores.accuracy
    assert (found["accuracy_low"], found["accuracy_high"]) == (scores.low, scores.high)
    assert found["macro_f1"] == scores.macro_f1
    assert found["weighted_f1"] == scores.weighted.f1
    assert found["ece"] == own.reliability.ece
    assert found["pictures"] == 240
    for each in scores.classes:
        figures = (found[f"{name}.{each.label}"] for name in ("recall", "precision", "f1"))
        assert tuple(figures) == (each.recall, each.precision, each.f1)
    assert all(isinstance(value, float) for value in found.values())
    assert part_metrics("test", own)["test_accuracy_low"] == scores.low


def test_a_label_that_no_picture_has_is_not_measured() -> None:
    logits, targets, _ = part(60)
    own = evaluate(
        logits[targets < 2], targets[targets < 2], LABELS, calibration=Calibration(requirements={"recall.ok": 0.1})
    )
    assert "recall.ok" not in metrics(own)
    assert not own.holds
    assert own.requirements == (Requirement("recall.ok", 0.1, None),)
    assert any("recall.ok" in sentence and "was not measured here" in sentence for sentence in verdict(own).sentences)


def test_requirements_hold_or_not(own: Evaluation) -> None:
    recall = metrics(own)["recall.crack"]
    for least, holds in ((recall, True), (recall + 1e-9, False)):
        asked = replace(own, calibration=Calibration(requirements={"recall.crack": least, "accuracy": 0.01}))
        assert asked.holds == holds
    assert own.holds
    assert own.requirements == ()


def test_nothing_to_judge_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no picture") as caught:
        evaluate(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), LABELS)
    assert caught.value.fix


def test_slices_find_the_bad_camera(own: Evaluation) -> None:
    found = {(each.by, each.value): each for each in own.slices}
    dusty, clean = found["source", "dusty"], found["source", "clean"]
    assert (dusty.pictures, clean.pictures) == (60, 180)
    assert dusty.worse
    assert not dusty.few
    assert not clean.worse
    assert clean.accuracy > 0.9
    assert dusty.accuracy < 0.5
    assert clean.interval.low <= clean.accuracy <= clean.interval.high
    assert found["brightness", "dark"].worse
    assert found["brightness", "dark"].pictures == 80
    assert {value for by, value in found if by == "group"} == {"alone", "more than 5 together"}
    for by in {each.by for each in own.slices}:
        assert sum(each.pictures for each in own.slices if each.by == by) == 240
    assert "It is worse where source is dusty" in " ".join(verdict(own).sentences)


def test_small_slices_are_marked() -> None:
    logits, targets, pictures = part(40)
    found = {each.value: each for each in evaluate(logits, targets, LABELS, pictures=pictures).slices}
    assert found["dusty"].few
    assert not found["clean"].few


def test_one_value_is_no_slice() -> None:
    logits, targets, pictures = part(30)
    same = [replace(picture, source="", group="", facts=pictures[0].facts) for picture in pictures]
    assert evaluate(logits, targets, LABELS, pictures=same).slices == ()


def test_many_sources_are_put_together() -> None:
    logits, targets, pictures = part(90)
    many = [replace(picture, source=f"camera {i // 2}") for i, picture in enumerate(pictures)]
    own = [each for each in evaluate(logits, targets, LABELS, pictures=many).slices if each.by == "source"]
    assert len(own) == 21
    assert [each.pictures for each in own if each.value == "all others"] == [50]


def test_the_surest_mistakes_come_first(own: Evaluation) -> None:
    wrong = [each for each in own.worst if not each.right]
    assert list(own.worst[: len(wrong)]) == wrong
    losses = [each.loss for each in wrong]
    assert losses == sorted(losses, reverse=True)
    for each in wrong:
        assert each.label == each.called[0] != each.true[0]
        assert each.file.startswith(each.true[0])


def test_multi_label_pictures_are_judged_by_every_label() -> None:
    targets = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 1, 1]])
    logits = 8 * targets - 4
    logits[1, 0], logits[2, 2] = 3.0, -3.0  # called and not there; missed
    own = evaluate(logits, targets, LABELS, "multi_label")
    assert own.scores.accuracy == pytest.approx(1 / 3)
    called, missed = sorted(own.worst[:2], key=lambda each: each.place)
    assert (called.called, called.true, called.label) == (("crack",), (), "crack")
    assert (missed.called, missed.true, missed.label) == (("hole",), ("hole", "ok"), "ok")
    assert "in every label" in verdict(own).sentences[0]


def test_the_order_of_the_pictures_does_not_matter(own: Evaluation) -> None:
    logits, targets, pictures = part(240)
    order = np.random.default_rng(0).permutation(240).tolist()
    other = evaluate(logits[order], targets[order], LABELS, pictures=[pictures[i] for i in order])
    assert other.scores == own.scores
    assert metrics(other) == pytest.approx(metrics(own))
    assert {(s.by, s.value): s.accuracy for s in other.slices} == {(s.by, s.value): s.accuracy for s in own.slices}
    assert [each.file for each in other.worst] == [each.file for each in own.worst]


def test_words_for_those_who_read_no_figures(own: Evaluation) -> None:
    told = verdict(replace(own, calibration=Calibration(requirements={"recall.hole": 0.99})))
    assert (told.headline, told.tone) == ("1 requirement not reached", "bad")
    assert told.sentences[0].startswith(f"{round(own.scores.accuracy * 240)} of 240 pictures are judged rightly")
    assert any("recall.hole must be at least 0.99 and is 0." in sentence for sentence in told.sentences)
    assert any("The most common mistake" in sentence for sentence in told.sentences)
    assert verdict(own).tone == "fair"
    assert verdict(replace(own, calibration=Calibration(requirements={"accuracy": 0.1}))).tone == "good"
