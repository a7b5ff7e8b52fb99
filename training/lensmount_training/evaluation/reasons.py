"""Where the adapted model looked: a heat map over a picture for one label.

Convolutional backbones: Grad-CAM (Selvaraju et al., ICCV 2017), behind the last segment with more than one place:
activations weighed by the mean gradient of the label's logit, and only what speaks for the label. Transformers answer
from one token, and every block carries something of the others to it, so no single place tells it all: each token's
gradient times its activation (Shrikumar et al., arXiv 1605.01713) is summed over what enters every block, all blocks
alike. On planted patches that found them better than the last block alone. The model runs with the adapter's edits,
through the segments that serve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.answering import logits_of, run_segment
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


def heat_map(adapter: Adapter, backbone: Backbone, row: Tensor, label: int) -> Floats:
    """What speaks for a label, 0 to 1, float64 (height, width) of a prepared picture uint8 (3, height, width).

    All zeros where nothing does, or where the backbone keeps no places.
    """
    size = row.shape[1:]
    with torch.enable_grad():
        x = adapter.manifest.preprocessing.normalize(row[None].to(backbone.device)).requires_grad_()
        entering = list(_entering(adapter, backbone, x))
        logits = logits_of(adapter, backbone, entering[-1])
        places = _places(backbone, entering)
        gradients = torch.autograd.grad(logits[0, label], places) if places else ()
    if not places:
        return np.zeros(size)
    heat = _heat(backbone, [own.detach() for own in places], gradients)
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


def _entering(adapter: Adapter, backbone: Backbone, x: Tensor) -> Iterator[Tensor]:
    """What enters every segment, and at last the head."""
    for index, segment in enumerate(backbone.segments):
        yield x
        x = run_segment(adapter, segment, index, x)
    yield x


def _places(backbone: Backbone, entering: Sequence[Tensor]) -> list[Tensor]:
    """Activations (1, …) at which the picture's parts can be told apart: of all blocks, or the last that has places."""
    last_block = max((i for i, own in enumerate(backbone.segments) if own.editable_modules()), default=0)
    tokens = [x for x in entering[: last_block + 1] if x.ndim == 3]
    return tokens or [x for x in entering[1:] if x.ndim == 4 and _sides(x, backbone) > 1][-1:]


def _heat(backbone: Backbone, places: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """What speaks for the label, at least 0: (rows, columns)."""
    if places[0].ndim == 3:
        signed = [(x * g).sum(-1)[0] for x, g in zip(places, gradients, strict=True)]
        return _on_grid(torch.stack([own / own.abs().max().clamp_min(1e-12) for own in signed]).sum(0), backbone).relu()
    activations, gradient = places[0], gradients[0]
    if _channels_last(backbone):
        activations, gradient = (own.permute(0, 3, 1, 2) for own in (activations, gradient))
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * activations).sum(1)[0].relu()


def _on_grid(tokens: Tensor, backbone: Backbone) -> Tensor:
    """The patches' own of a number for each token, (rows, columns)."""
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
