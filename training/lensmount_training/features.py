"""The frozen prefix, computed once: activations at the fork, or pooled features.

What no strategy trains gives the same numbers in every epoch, so every picture goes through it
once for each view. Views are exact turns and flips of the prepared picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError, TooLargeError
from lensmount_adapters.backbones import Backbone
from lensmount_training.data import Pictures
from lensmount_training.progress import Progress

# On a CPU small batches stay in the cache; 8 was faster than 32.
BATCH = 8
MAX_CACHE_BYTES = 4 << 30

View = Callable[[Tensor], Tensor]

VIEWS: Mapping[str, View] = {
    "identity": lambda x: x,
    "hflip": lambda x: x.flip(-1),
    "vflip": lambda x: x.flip(-2),
    "rot90": lambda x: x.rot90(1, (-2, -1)),
    "rot180": lambda x: x.rot90(2, (-2, -1)),
    "rot270": lambda x: x.rot90(3, (-2, -1)),
    "transpose": lambda x: x.transpose(-2, -1),
    "transverse": lambda x: x.rot90(2, (-2, -1)).transpose(-2, -1),
}
QUARTER_TURNS = ("rot90", "rot270", "transpose", "transverse")
PLAIN = ("identity",)


@dataclass(frozen=True, eq=False)
class Cache:
    """Activations of some pictures: (n, views, *shape), float16, and targets int64 (n,)."""

    activations: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


def at_fork(backbone: Backbone, fork: int, pictures: Pictures, views: Sequence[str], progress: Progress) -> Cache:
    """Run segments before `fork` once for every view of every picture.

    float16 halves the memory and moved pooled features by at most 0.2 % of their deviation (ViT-Tiny,
    EfficientNet-Lite0); beyond its range values are cut, not made infinite. Raises
    InvalidInputError for a view that does not fit, TooLargeError beyond `MAX_CACHE_BYTES`.
    """
    check_views(backbone, views)

    def prefix(x: Tensor) -> Tensor:
        for segment in backbone.segments[:fork]:
            x = segment(x)
        limit = torch.finfo(torch.float16).max
        return x.clamp(-limit, limit).half()

    return Cache(_run(backbone, prefix, pictures, views, progress), pictures.targets)


def pooled(backbone: Backbone, pictures: Pictures, views: Sequence[str], progress: Progress) -> Tensor:
    """Pooled features of every view of every picture: float32 (n, views, features)."""
    check_views(backbone, views)
    return _run(backbone, lambda x: backbone.pool(backbone.forward_features(x)), pictures, views, progress)


def check_views(backbone: Backbone, views: Sequence[str]) -> None:
    """Raise InvalidInputError for an unknown view, or a quarter turn of an input that is not square."""
    for view in views:
        if view not in VIEWS:
            raise InvalidInputError("no such view", field="views", value=view, fix=f"choose from {', '.join(VIEWS)}")
    size = backbone.preprocessing
    turned = [view for view in views if view in QUARTER_TURNS and size.height != size.width]
    if turned:
        message = f"the backbone's input is {size.width}x{size.height}, not square"
        raise InvalidInputError(message, field="views", value=turned[0], fix="leave quarter turns out")
    if "identity" not in views:
        raise InvalidInputError("identity is missing", field="views", value=",".join(views), fix="add identity")


@torch.no_grad()
def _run(
    backbone: Backbone,
    step: Callable[[Tensor], Tensor],
    pictures: Pictures,
    views: Sequence[str],
    progress: Progress,
) -> Tensor:
    bar = progress.bar("running the backbone", len(pictures) * len(views))
    out = torch.empty(0)
    for place, view in enumerate(views):
        for rows in batches(len(pictures)):
            batch = VIEWS[view](pictures.pixels[rows]).to(backbone.device)
            result = step(backbone.preprocessing.normalize(batch)).cpu()
            if not out.numel():
                out = _allocate(len(pictures), len(views), result)
            out[rows, place] = result
            bar.advance(len(result))
    return out


def batches(count: int, size: int = BATCH) -> Iterator[slice]:
    """Slices of at most `size` that cover `count` rows."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _allocate(pictures: int, views: int, sample: Tensor) -> Tensor:
    needed = pictures * views * sample[0].numel() * sample.element_size()
    if needed > MAX_CACHE_BYTES:
        message = f"the cache would take {needed / 2**30:.1f} GiB, {MAX_CACHE_BYTES / 2**30:.0f} are allowed"
        fix = "use fewer --views, fewer pictures, or a smaller backbone"
        raise TooLargeError(message, field="views", value=views, fix=fix)
    return torch.empty((pictures, views, *sample.shape[1:]), dtype=sample.dtype)
