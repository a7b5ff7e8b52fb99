"""The frozen prefix, computed once: activations at the fork, or pooled features.

What no strategy trains gives the same numbers in every epoch and in every run, so every picture goes through it
once for each view, and the result is kept by the picture's content. One pass serves every fork that is asked for.
Views are exact turns and flips of the prepared picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_training.context import Context
from lensmount_training.data.dataset import Pictures
from lensmount_training.data.rows import Array, MappedRows, RowStore
from lensmount_training.memory import Portions
from lensmount_training.processes import current

POOLED = -1

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
    """Activations of some pictures in some views, float16 (n, *shape) each, and their targets."""

    views: tuple[MappedRows, ...]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: Tensor, views: Tensor) -> Tensor:
        """Activations float16 (rows, *shape): each row in the view of the same place; both int64 (rows,)."""
        first = self.views[0][rows[:0]]
        out = first.new_empty((len(rows), *first.shape[1:]))
        for view in views.unique().tolist():  # type: ignore[no-untyped-call]
            own = views == view
            out[own] = self.views[view][rows[own]]
        return out

    def plain(self, rows: slice) -> Tensor:
        """Activations of the first view: the picture as it is."""
        return self.views[0][rows]


def at_fork(backbone: Backbone, fork: int, pictures: Pictures, views: Sequence[str], context: Context) -> Cache:
    """What enters segment `fork`, for every view of every picture; see `at_forks`."""
    return at_forks(backbone, (fork,), pictures, views, context)[fork]


def at_forks(
    backbone: Backbone, forks: Sequence[int], pictures: Pictures, views: Sequence[str], context: Context
) -> dict[int, Cache]:
    """What enters each of the segments `forks`, by fork, in one pass through the backbone for all that is missing.

    The fork `POOLED` stands for pooled features, float32. Of several processes each computes its share.

    float16 halves the memory and moved pooled features by at most 0.2 % of their deviation (ViT-Tiny,
    EfficientNet-Lite0); beyond its range values are cut, not made infinite. Raises InvalidInputError for a view
    that does not fit, when the disk is full, and when the memory is not enough for one picture.
    """
    found = _found(backbone, forks, pictures, views, context)
    return {fork: Cache(tuple(found[fork, view] for view in views), pictures.targets) for fork in forks}


def pooled(backbone: Backbone, pictures: Pictures, views: Sequence[str], context: Context) -> Tensor:
    """Pooled features of every view of every picture: float32 (n, views, features)."""
    found = _found(backbone, (POOLED,), pictures, views, context)
    return torch.stack([found[POOLED, view][:] for view in views], 1)


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
    if views[:1] != ("identity",) and list(views[:1]) != ["identity"]:
        message, fix = "the first view is the picture as it is", "put identity first"
        raise InvalidInputError(message, field="views", value=",".join(views), fix=fix)


def _found(
    backbone: Backbone, forks: Sequence[int], pictures: Pictures, views: Sequence[str], context: Context
) -> dict[tuple[int, str], MappedRows]:
    """Rows by fork and view; what is missing of a view is computed in one pass."""
    check_views(backbone, views)
    processes = current()
    share = range(processes.rank, len(pictures), processes.count)
    digests = [pictures.digests[place] for place in share]
    stores = _stores(backbone, forks, views, context)
    missing = {view: [fork for fork in forks if stores[fork, view].missing(digests)] for view in views}
    if any(missing.values()):
        progress = processes.context(context).progress
        bar = progress.bar("running the backbone", len(share) * sum(map(bool, missing.values())))
        portions = Portions(say=progress.say)
        for view, own in missing.items():
            if own:
                wanted = {fork: stores[fork, view] for fork in own}
                _compute(backbone, pictures, share, view, wanted, portions, bar.advance)
    if processes.count > 1:
        processes.wait()
        stores = _stores(backbone, forks, views, context)
    return {key: store.rows(pictures.digests) for key, store in stores.items()}


def _stores(
    backbone: Backbone, forks: Sequence[int], views: Sequence[str], context: Context
) -> dict[tuple[int, str], RowStore]:
    return {(fork, view): RowStore(_folder(context.cache, backbone, fork, view)) for fork in forks for view in views}


@torch.no_grad()
def _compute(
    backbone: Backbone,
    pictures: Pictures,
    share: Sequence[int],
    view: str,
    stores: Mapping[int, RowStore],
    portions: Portions,
    advance: Callable[[int], None],
) -> None:
    """Run the pictures of the share that any of the stores misses, and keep what enters each fork."""
    wanted = {key for store in stores.values() for key in store.missing(pictures.digests)}
    places = torch.tensor([place for place in share if pictures.digests[place] in wanted])
    keys = [pictures.digests[place] for place in places.tolist()]
    with ExitStack() as stack:
        rooms: dict[int, Array] = {}

        def portion(rows: slice) -> int:
            x = VIEWS[view](pictures.pixels[places[rows]]).to(backbone.device)
            for fork, activations in _stops(backbone, backbone.preprocessing.normalize(x), sorted(stores)):
                kept = activations.cpu().numpy()
                if fork not in rooms:
                    rooms[fork] = stack.enter_context(stores[fork].added(keys, kept.shape[1:], kept.dtype))
                rooms[fork][rows] = kept
            return len(x)

        for done in portions.walk(len(places), portion):
            advance(done)
    advance(len(share) - len(places))


def _stops(backbone: Backbone, x: Tensor, forks: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """Walk through the segments, giving what enters each of `forks`; at the end, pooled features."""
    limit = torch.finfo(torch.float16).max
    count = len(backbone.segments)
    last = count if POOLED in forks else max(forks)
    for index in range(last + 1):
        if index in forks:
            yield index, x.clamp(-limit, limit).half()
        if index < last:
            x = backbone.segments[index](x)
    if POOLED in forks:
        yield POOLED, backbone.pool(x).float()


def _folder(cache: Path, backbone: Backbone, fork: int, view: str) -> Path:
    """By architecture (its name), weights (its fingerprint), preprocessing, place and view."""
    text = f"{backbone.name} {backbone.fingerprint} {backbone.preprocessing.model_dump_json()}"
    which = "pooled" if fork == POOLED else f"segment-{fork}"
    return cache / "activations" / f"{backbone.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}" / which / view
