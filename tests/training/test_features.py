"""What is cached is what the backbone gives, view by view, computed once and found by the picture's content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from factories import pictures, random_backbone, stacked
from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_training.context import Context
from lensmount_training.data import Pictures
from lensmount_training.features import PLAIN, POOLED, VIEWS, at_fork, at_forks, check_views, pooled
from lensmount_training.memory import batches
from lensmount_training.progress import NoProgress


class Bars(NoProgress):
    """Keeps what a run computes."""

    def __init__(self) -> None:
        self.totals: list[int] = []

    def bar(self, label: str, total: int) -> Bars:
        assert label == "running the backbone"
        self.totals.append(total)
        return self


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("test_vit")


@pytest.fixture(scope="module")
def shots(backbone: Backbone) -> Pictures:
    return Pictures.of(stacked(backbone, pictures(11)), torch.arange(11) % 3)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(cache=tmp_path)


def prefix(backbone: Backbone, fork: int, pixels: Tensor) -> Tensor:
    with torch.inference_mode():
        x = backbone.preprocessing.normalize(pixels)
        for segment in backbone.segments[:fork]:
            x = segment(x)
        return x


@pytest.mark.parametrize("fork", [0, 3, 8])
def test_activations_at_the_fork(backbone: Backbone, shots: Pictures, context: Context, fork: int) -> None:
    cache = at_fork(backbone, fork, shots, ("identity", "rot90"), context)
    for own, view in zip(cache.views, ("identity", "rot90"), strict=True):
        assert own[:].dtype == torch.float16
        expected = prefix(backbone, fork, VIEWS[view](shots.pixels[:]))
        torch.testing.assert_close(own[:].float(), expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(cache.targets, shots.targets)
    assert len(cache) == 11


def test_pooled_features_are_exact(backbone: Backbone, shots: Pictures, context: Context) -> None:
    got = pooled(backbone, shots, ("identity", "hflip"), context)
    with torch.inference_mode():
        x = backbone.preprocessing.normalize(shots.pixels[:].flip(-1))
        expected = backbone.pool(backbone.forward_features(x))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got[:, 1], expected, rtol=1e-5, atol=1e-5)


def test_a_cache_can_be_learned_from(backbone: Backbone, shots: Pictures, context: Context) -> None:
    x = at_fork(backbone, 3, shots, ("identity",), context).plain(slice(11)).float()
    scale = torch.ones(1, requires_grad=True)
    (x * scale).sum().backward()  # type: ignore[no-untyped-call]
    assert scale.grad is not None


def test_rows_are_taken_in_their_views(backbone: Backbone, shots: Pictures, context: Context) -> None:
    cache = at_fork(backbone, 2, shots, ("identity", "hflip"), context)
    rows, views = torch.tensor([5, 0, 5, 3]), torch.tensor([1, 0, 0, 1])
    taken = cache.take(rows, views)
    for place, (row, view) in enumerate(zip(rows.tolist(), views.tolist(), strict=True)):
        assert torch.equal(taken[place], cache.views[view][row : row + 1][0])


def test_many_forks_take_one_pass_and_a_second_run_none(backbone: Backbone, shots: Pictures, context: Context) -> None:
    said = Bars()
    context = replace(context, progress=said)
    forks = (POOLED, 2, 5)
    first = at_forks(backbone, forks, shots, ("identity",), context)
    again = at_forks(backbone, forks, shots, ("identity",), context)
    assert said.totals == [11]
    for fork in forks:
        assert torch.equal(first[fork].plain(slice(11)), again[fork].plain(slice(11)))
    torch.testing.assert_close(
        first[5].plain(slice(11)).float(), prefix(backbone, 5, shots.pixels[:]), rtol=1e-3, atol=1e-3
    )


def test_new_pictures_alone_are_computed(backbone: Backbone, shots: Pictures, context: Context) -> None:
    at_fork(backbone, 2, shots.select(range(8)), ("identity",), context)
    said = Bars()
    cache = at_fork(backbone, 2, shots, ("identity",), replace(context, progress=said))
    assert said.totals == [11]
    torch.testing.assert_close(
        cache.plain(slice(11)).float(), prefix(backbone, 2, shots.pixels[:]), rtol=1e-3, atol=1e-3
    )
    shards = list(context.cache.rglob("keys.txt"))
    assert sorted(len(path.read_text().split()) for path in shards) == [3, 8]


def test_another_backbone_has_a_cache_of_its_own(backbone: Backbone, shots: Pictures, context: Context) -> None:
    other = random_backbone("test_vit", seed=1)
    one, two = (at_fork(own, 2, shots, ("identity",), context).plain(slice(11)) for own in (backbone, other))
    assert not torch.equal(one, two)


def test_views_are_the_eight_symmetries_of_a_square() -> None:
    corner = torch.arange(9).reshape(1, 1, 3, 3)
    assert len({tuple(view(corner).flatten().tolist()) for view in VIEWS.values()}) == 8
    assert torch.equal(VIEWS["identity"](corner), corner)
    assert torch.equal(VIEWS["hflip"](corner)[0, 0, 0], torch.tensor([2, 1, 0]))
    assert torch.equal(VIEWS["vflip"](corner)[0, 0, 0], torch.tensor([6, 7, 8]))


def test_out_of_range_values_are_cut_not_infinite(shots: Pictures, context: Context) -> None:
    huge = random_backbone("test_vit")
    with torch.no_grad():
        for parameter in huge.segments[0].model.get_submodule("patch_embed").parameters():
            parameter.mul_(1e6)
    activations = at_fork(huge, 1, shots, ("identity",), replace(context, cache=context.cache / "huge")).plain(
        slice(11)
    )
    assert bool(torch.isfinite(activations).all())
    assert float(activations.abs().max()) == 65504


@pytest.mark.parametrize(
    ("views", "message"), [(("identity", "shear"), "no such view"), (("hflip",), "the picture as it is")]
)
def test_views_that_do_not_exist(backbone: Backbone, views: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        check_views(backbone, views)
    assert caught.value.field == "views"
    assert caught.value.fix


def test_quarter_turns_need_a_square_input() -> None:
    wide = random_backbone("test_efficientnet")
    oblong = wide.preprocessing.model_copy(update={"width": 192})
    object.__setattr__(wide, "preprocessing", oblong)
    check_views(wide, ("identity", "rot180"))
    with pytest.raises(InvalidInputError, match="not square"):
        check_views(wide, ("identity", "rot90"))


@contextmanager
def narrow(backbone: Backbone, limit: int, error: Exception) -> Iterator[None]:
    """The backbone's middle fails on more than `limit` pictures at once."""

    def check(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > limit:
            raise error

    hook = backbone.model.get_submodule("blocks.3").register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def test_full_memory_makes_portions_smaller_and_changes_nothing(
    backbone: Backbone, shots: Pictures, context: Context
) -> None:
    other = replace(context, cache=context.cache / "other")
    whole = at_forks(backbone, (2, POOLED), shots, PLAIN, context)
    with narrow(backbone, 3, RuntimeError("could not create a primitive")):
        parted = at_forks(backbone, (2, POOLED), shots, PLAIN, other)
        again = at_forks(backbone, (2, POOLED), shots, PLAIN, context)  # found under the same key: nothing is computed
    for fork, cache in whole.items():
        rows = slice(len(shots))
        assert torch.equal(again[fork].plain(rows), cache.plain(rows))
        torch.testing.assert_close(parted[fork].plain(rows), cache.plain(rows), rtol=1e-3, atol=1e-3)


def test_one_picture_that_is_too_much_and_other_errors(backbone: Backbone, shots: Pictures, context: Context) -> None:
    with narrow(backbone, 0, torch.cuda.OutOfMemoryError()), pytest.raises(InvalidInputError, match="one picture"):
        pooled(backbone, shots, PLAIN, context)
    with narrow(backbone, 3, RuntimeError("shapes do not fit")), pytest.raises(RuntimeError, match="shapes"):
        pooled(backbone, shots, PLAIN, context)


def test_batches_cover_every_row_once() -> None:
    assert [range(20)[rows] for rows in batches(20, 8)] == [range(8), range(8, 16), range(16, 20)]
    assert list(batches(0)) == []
