"""Advice in words, from figures that the audit has: what to take more of, what to look at, which backbone."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from lensmount_training.audit.findings import GOOD_ACCURACY, Parts, named
from lensmount_training.data.dataset import Dataset

ENOUGH, PLENTY = 50, 200
# Recognised nearly always: more pictures would bring nothing that can be measured.
SOLVED = 0.97
# Below this side, EfficientNet-B4's 380 pixels would only be interpolated.
SMALL_SIDE = 128


def advice_of(dataset: Dataset, backbone: str, parts: Parts) -> tuple[str, ...]:
    """Sentences, the most useful first."""
    return (
        *_more_pictures(parts),
        *_learning_curve(dataset, parts),
        *_confusions(parts),
        *_groups(dataset, parts),
        *_backbones(dataset, backbone, parts),
    )


def _more_pictures(parts: Parts) -> Iterator[str]:
    for goal, why in ((ENOUGH, "a head on frozen features is steady"), (PLENTY, "editing segments (lora) pays")):
        wanted = [f"{goal - own.pictures} of {own.label}" for own in parts.balance.classes if own.pictures < goal]
        if wanted:
            yield f"To reach {goal} a class, from where {why}: {named(wanted, 10)}."


def _learning_curve(dataset: Dataset, parts: Parts) -> Iterator[str]:
    """What the last doubling brought is the most that the next one may bring: learning curves flatten."""
    judgement = parts.judgement
    count = len(dataset.pictures)
    gain = judgement.accuracy - judgement.accuracy_half
    # The standard error of a share of so many pictures; both shares are of the same pictures.
    noise = (judgement.accuracy * (1 - judgement.accuracy) / count) ** 0.5
    right = f"A head on frozen features gets {judgement.accuracy:.1%} of pictures right that it has not seen"
    if judgement.accuracy >= SOLVED:
        yield f"{right}: the classes are easy to tell apart, and more pictures will hardly show."
    elif gain > noise:
        half = f"{judgement.accuracy_half:.1%} with half as many"
        yield f"{right}, {half}: twice as many may bring up to {_points(gain)}."
    else:
        yield (
            f"{right}, {judgement.accuracy_half:.1%} with half as many: more of the same pictures will bring little. "
            "Better labels, other views or editing segments (lora) may."
        )
    weakest = min(judgement.classes, key=lambda own: (own.whole, own.label))
    if weakest.whole < min(SOLVED, judgement.accuracy):
        gain = weakest.whole - weakest.half
        more = f"; twice as many pictures of it may bring about {_points(gain)}" if gain >= 0.01 else ""
        yield f"{weakest.label} is recognised worst, {weakest.whole:.0%} of its pictures{more}."


def _points(gain: float) -> str:
    points = round(100 * gain)
    return f"{points} point" if points == 1 else f"{points} points" if points else "less than a point"


def _confusions(parts: Parts) -> Iterator[str]:
    pairs = [f"{own.given} for {own.taken_for} ({own.pictures})" for own in parts.judgement.confusions]
    if pairs:
        yield f"Most often taken for each other: {named(pairs)}. Look at these classes' borders first."


def _groups(dataset: Dataset, parts: Parts) -> Iterator[str]:
    if any(picture.group for picture in dataset.pictures):
        if not parts.judgement.grouped:
            yield "A class lies in a single group, so groups had to be parted to judge it: take it in others too."
    elif parts.duplicates.sets or parts.duplicates.scenes:
        yield (
            "Some pictures belong together, and no groups are given: put pictures of one part, one recording or one "
            "day into a sub-folder of their class, so that no test sees what training saw."
        )


def _backbones(dataset: Dataset, backbone: str, parts: Parts) -> Iterator[str]:
    side = median(min(picture.facts.width, picture.facts.height) for picture in dataset.pictures)
    if parts.judgement.accuracy >= SOLVED:
        yield f"{backbone} tells the classes apart already; a larger backbone would only cost more."
        return
    if side < SMALL_SIDE:
        yield (
            f"Backbone: the pictures are small (commonly {side:.0f} pixels), so a small input is enough: "
            "tf_efficientnet_lite0, which needs no download, or resnet50 where libraries and edge devices ask for it."
        )
    else:
        yield (
            "Backbone: efficientnet_b4 by default, since its 380 pixels show small things; resnet50 where libraries or "
            "edge devices ask for it; tf_efficientnet_lite0 without a network."
        )
    if parts.judgement.accuracy < GOOD_ACCURACY:
        yield "vit_base_patch16_224, with lora, where the whole of a picture decides (how parts lie to each other)."


def first_looks(parts: Parts, most: int = 20) -> tuple[str, ...]:
    """The pictures to look at first, by file name: contradicting labels, likely errors, then faults."""
    files = [file for leak in (*parts.leakage.labels, *parts.leakage.parts) for file in leak.files]
    files += [issue.file for issue in parts.judgement.likely]
    files += [fault.file for fault in sorted(parts.looks.faults, key=lambda own: (own.score, own.file))]
    return tuple(dict.fromkeys(files))[:most]
