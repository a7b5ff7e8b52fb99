"""How far pictures are from those that the backbone was trained on, in 0..1, without having those.

Every normalisation layer sees, for each channel, a mean and a deviation over the places of a picture. They are
compared with what the layer is used to: the running statistics of BatchNorm, which are those of the training pictures
themselves; for backbones without it (LayerNorm), those of photographs that come with scikit-image and scikit-learn.
The distance of one picture is the squared 2-Wasserstein distance of both normal distributions over the variance that
the layer is used to, averaged over channels and layers (BatchNorm statistics as a measure of domain shift: Li et al.,
arXiv 1603.04779).

Its unit comes from the same backbone: 0 is the nearest quarter of photographs (each measured against the others), 1
is white noise. A picture at a time, so that a single camera with a single scene is not far for showing little
variety. It can not see a domain that has the statistics of photographs and another meaning.

With EfficientNet-Lite0 and ViT-Tiny: household waste 0.0 and 0.1, bottles on a conveyor 0.2 and 0.2, stained tissue
and eyes 0.2 and 0.2, printed text 0.4 and 0.5, binarised circuit boards 0.6 and 0.4, handwritten digits 0.6 and 0.4,
nothing but bricks, grass or gravel 0.6 and 0.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.pictures import Pixels
from lensmount_training.audit.photographs import crops, noise, photographs
from lensmount_training.context import Context
from lensmount_training.data.dataset import Dataset, Pictures
from lensmount_training.memory import Portions
from lensmount_training.progress import Bar

MEDIUM, FAR = 0.25, 0.35
SAMPLE, NOISES = 32, 8
# Noise must be this many times farther than photographs, else the backbone is used to neither.
LEAST_CONTRAST = 1.2

Word = Literal["near", "medium", "far"]


@dataclass(frozen=True)
class Distance:
    """`value` in 0..1: near below 0.25, far from 0.35; `explanation` is a sentence for people."""

    value: float
    word: Word
    explanation: str


class _Moments(NamedTuple):
    """Mean and variance of every channel: (pictures, channels), or (channels,) of all together."""

    mean: Tensor
    variance: Tensor


_Layers = dict[str, _Moments]


def domain_distance(
    backbone: Backbone, pictures: Dataset | Pictures, context: Context, *, sample: int = SAMPLE
) -> Distance:
    """Distance of at most `sample` pictures, chosen by their content, from the backbone's own."""
    chosen = _sample(pictures, sample)
    shots = [list(crops(picture, seed)) for seed, picture in enumerate(photographs())]
    bar = context.progress.bar("measuring the domain", len(chosen) + NOISES + sum(map(len, shots)))
    used_to = _running(backbone)
    photos = [_measure(backbone, _prepared(backbone, own), bar) for own in shots]
    if not photos[0]:
        return _unknown("has no normalisation layer")
    unit = torch.cat([_distances(own, used_to or _pooled(_others(photos, at))) for at, own in enumerate(photos)])
    reference = used_to or _pooled(photos)
    most = _distances(_measure(backbone, _prepared(backbone, noise(NOISES, 0)), bar), reference)
    own = _distances(_measure(backbone, chosen, bar), reference)
    zero, one = float(unit.quantile(0.25)), float(most.mean())
    if not one > LEAST_CONTRAST * zero:
        return _unknown("is as used to noise as to photographs")
    return _named(min(max((float(own.mean()) - zero) / (one - zero), 0.0), 1.0))


def word_of(value: float) -> Word:
    """The word for a distance in 0..1."""
    return "far" if value >= FAR else "medium" if value >= MEDIUM else "near"


def _named(value: float) -> Distance:
    word = word_of(value)
    meaning = {
        "near": "they look to the backbone as photographs do, so its frozen features fit",
        "medium": "they differ from photographs; editing the last segments (lora) may be worth its minutes",
        "far": "they are unlike photographs, so frozen features fit badly: edit the segments (lora), or fine-tune",
    }[word]
    scale = f"0 is a photograph, 1 is noise; medium from {MEDIUM}, far from {FAR}"
    return Distance(round(value, 2), word, f"The distance is {value:.2f} ({scale}): {meaning}.")


def _unknown(why: str) -> Distance:
    return Distance(
        0.5, "medium", f"The distance can not be measured, since the backbone {why}; 0.5 stands for unknown."
    )


def _sample(pictures: Dataset | Pictures, count: int) -> Tensor:
    """Prepared rows uint8 (m, 3, height, width), m at most `count`, in an order that only content decides."""
    if isinstance(pictures, Dataset):
        rows, digests = pictures.rows, tuple(picture.digest for picture in pictures.pictures)
    else:
        rows, digests = pictures.pixels, pictures.digests
    order = sorted(range(len(digests)), key=lambda place: hashlib.sha256(digests[place].encode()).digest())
    return rows[torch.tensor(order[:count], dtype=torch.int64)]


def _prepared(backbone: Backbone, pictures: Iterable[Pixels]) -> Tensor:
    return torch.stack([backbone.preprocessing.prepare(picture) for picture in pictures])


@torch.no_grad()
def _measure(backbone: Backbone, rows: Tensor, bar: Bar) -> _Layers:
    """Moments of every picture (n, channels) in front of every normalisation layer, float64."""
    with _watched(backbone.model) as seen:

        def measured(part: slice) -> _Layers:
            seen.clear()
            backbone.forward_features(backbone.preprocessing.normalize(rows[part].to(backbone.device)))
            bar.advance(part.stop - part.start)
            return dict(seen)

        parts = list(Portions().walk(len(rows), measured))
    names = parts[0] if parts else ()
    return {name: _Moments(*map(torch.cat, zip(*(part[name] for part in parts), strict=True))) for name in names}


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Layers]:
    """Moments by layer, filled in by every forward pass."""
    seen: _Layers = {}
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm)}
    handles = [layer.register_forward_pre_hook(_hook(name, seen)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, seen: _Layers) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x: Tensor = inputs[0].float()
        if x.ndim < 3:  # behind the pooling there are no places to average over
            return
        first = isinstance(layer, nn.BatchNorm2d | LayerNorm2d)
        places = x.flatten(2) if first else x.flatten(1, -2).transpose(1, 2)
        variance, mean = torch.var_mean(places, 2, correction=0)
        seen[name] = _Moments(mean.double().cpu(), variance.double().cpu())

    return look


def _running(backbone: Backbone) -> _Layers:
    """What every BatchNorm layer is used to, (channels,) each."""
    layers = [(name, layer) for name, layer in backbone.model.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    return {
        name: _Moments(layer.running_mean.double().cpu(), layer.running_var.double().cpu())
        for name, layer in layers
        if layer.running_mean is not None and layer.running_var is not None
    }


def _others(photos: Sequence[_Layers], left_out: int) -> list[_Layers]:
    return [own for place, own in enumerate(photos) if place != left_out]


def _pooled(photos: Sequence[_Layers]) -> _Layers:
    """The moments of all pictures together: within plus between, (channels,) each."""
    pooled: _Layers = {}
    for name in photos[0]:
        mean = torch.cat([own[name].mean for own in photos])
        within = torch.cat([own[name].variance for own in photos])
        pooled[name] = _Moments(mean.mean(0), within.mean(0) + mean.var(0, correction=0))
    return pooled


def _distances(own: _Layers, used_to: _Layers) -> Tensor:
    """One number a picture, (n,)."""
    return torch.stack([_distance(own[name], used_to[name]) for name in own if name in used_to]).mean(0)


def _distance(own: _Moments, used_to: _Moments) -> Tensor:
    floor = 1e-5 + 1e-3 * used_to.variance.mean()
    apart = (own.mean - used_to.mean).square() + (own.variance.sqrt() - used_to.variance.sqrt()).square()
    return (apart / (used_to.variance + floor)).mean(1)
