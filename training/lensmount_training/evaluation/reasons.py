"""Where the adapted model looked: a heat map over a picture for one label.

Grad-CAM (Selvaraju et al., ICCV 2017): activations weighed by the mean gradient of the label's logit, and only what
speaks for the label. A convolutional backbone is looked at behind its last segment with more than one place. A
transformer answers from one token, so gradients behind its last block tell nothing of the others: it is looked at in
front of the last segments, where that token still reads all of them, each token's gradient times its activation.
The model runs with the adapter's edits, through the segments that serve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.answering import logits_of, run_segment, run_segments
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.pictures import Pixels
from lensmount_training.evaluation.intervals import Floats

# What is hotter than this share of the picture is shown alike: one token may outshine all that speaks for a label.
HOTTEST = 0.99
# Pixels of the longer side of a picture that is shown.
SIDE = 320
# How much of the heat map's colour lies over a picture where it is hottest.
OPACITY = 0.55
QUALITY = 85


@dataclass(frozen=True, eq=False)
class _Place:
    """Where to look: what enters segment `segment`, (1, …)."""

    segment: int
    activations: Tensor


def heat_map(adapter: Adapter, backbone: Backbone, row: Tensor, label: int) -> Floats:
    """What speaks for a label, 0 to 1, float64 (height, width) of a prepared picture uint8 (3, height, width).

    All zeros where nothing does, or where the backbone keeps no places.
    """
    size = row.shape[1:]
    with torch.no_grad():
        x = adapter.manifest.preprocessing.normalize(row[None].to(backbone.device))
        place = _look(adapter, backbone, x)
    if place is None:
        return np.zeros(size)
    with torch.enable_grad():
        activations = place.activations.clone().requires_grad_()
        logits = logits_of(adapter, backbone, run_segments(adapter, backbone, activations, place.segment))
        (gradient,) = torch.autograd.grad(logits[0, label], activations)
    heat = _weighed(activations.detach(), gradient, backbone)
    grown = F.interpolate(heat[None, None].double(), tuple(size), mode="bilinear", align_corners=False)[0, 0]
    highest = float(grown.quantile(HOTTEST)) or float(grown.max())
    shown: Floats = (grown / highest).clamp(max=1).cpu().numpy() if highest > 0 else np.zeros(size)
    return shown


def overlay(row: Tensor, heat: Floats) -> bytes:
    """A prepared picture uint8 (3, height, width) with its heat map over it, as JPEG."""
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = OPACITY * heat[:, :, None]
    return _encoded((_bgr(row) * (1 - share) + colours * share).round().astype(np.uint8))


def plain(row: Tensor) -> bytes:
    """The prepared picture itself, as JPEG."""
    return _encoded(_bgr(row))


def _bgr(row: Tensor) -> Pixels:
    return np.ascontiguousarray(row.permute(1, 2, 0).numpy()[:, :, ::-1])


def _encoded(picture: Pixels) -> bytes:
    ratio = SIDE / max(picture.shape[:2])
    if ratio < 1:
        picture = cv2.resize(picture, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA).astype(np.uint8)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes()


def _look(adapter: Adapter, backbone: Backbone, x: Tensor) -> _Place | None:
    """The last place in the model where gradients still tell the picture's parts from each other."""
    best = None
    last_block = max((i for i, own in enumerate(backbone.segments) if own.editable_modules()), default=0)
    for index, entering in _entering(adapter, backbone, x):
        tokens = entering.ndim == 3 and index <= last_block
        places = entering.ndim == 4 and index > 0 and _sides(entering, backbone) > 1
        if tokens or places:
            best = _Place(index, entering)
    return best


def _entering(adapter: Adapter, backbone: Backbone, x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """What enters every segment, and at last the head."""
    for index, segment in enumerate(backbone.segments):
        yield index, x
        x = run_segment(adapter, segment, index, x)
    yield len(backbone.segments), x


def _weighed(activations: Tensor, gradient: Tensor, backbone: Backbone) -> Tensor:
    """Heat (rows, columns) at least 0 of activations (1, …)."""
    if activations.ndim == 3:
        return _on_grid((activations * gradient).sum(-1)[0], backbone).relu()
    if _channels_last(backbone):
        activations, gradient = (own.permute(0, 3, 1, 2) for own in (activations, gradient))
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * activations).sum(1)[0].relu()


def _on_grid(tokens: Tensor, backbone: Backbone) -> Tensor:
    """The patches' own tokens, without those in front of them, (rows, columns)."""
    model: Any = backbone.model
    patches = tokens[model.num_prefix_tokens :]
    rows, columns = model.patch_embed.grid_size
    return patches.reshape(rows, columns)


def _sides(activations: Tensor, backbone: Backbone) -> int:
    places = activations.shape[1:3] if _channels_last(backbone) else activations.shape[2:]
    return min(places)


def _channels_last(backbone: Backbone) -> bool:
    model: Any = backbone.model
    return str(getattr(model, "output_fmt", "NCHW")) == "NHWC"
