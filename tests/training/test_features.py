"""What is cached is what the backbone gives, view by view, and stays within bounds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from factories import pictures, random_backbone, stacked
from lensmount.errors import InvalidInputError, TooLargeError
from lensmount_adapters.backbones import Backbone
from lensmount_training import features
from lensmount_training.data import Pictures
from lensmount_training.features import VIEWS, at_fork, batches, check_views, pooled
from lensmount_training.progress import NoProgress

NONE = NoProgress()


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("test_vit")


@pytest.fixture(scope="module")
def shots(backbone: Backbone) -> Pictures:
    return Pictures(stacked(backbone, pictures(11)), torch.arange(11) % 3)


def prefix(backbone: Backbone, fork: int, pixels: Tensor) -> Tensor:
    with torch.inference_mode():
        x = backbone.preprocessing.normalize(pixels)
        for segment in backbone.segments[:fork]:
            x = segment(x)
        return x


@pytest.mark.parametrize("fork", [0, 3, 8])
def test_activations_at_the_fork(backbone: Backbone, shots: Pictures, fork: int) -> None:
    cache = at_fork(backbone, fork, shots, ("identity", "rot90"), NONE)
    assert cache.activations.dtype == torch.float16
    for place, view in enumerate(("identity", "rot90")):
        expected = prefix(backbone, fork, VIEWS[view](shots.pixels))
        torch.testing.assert_close(cache.activations[:, place].float(), expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(cache.targets, shots.targets)
    assert len(cache) == 11


def test_pooled_features_are_exact(backbone: Backbone, shots: Pictures) -> None:
    got = pooled(backbone, shots, ("identity", "hflip"), NONE)
    with torch.inference_mode():
        x = backbone.preprocessing.normalize(shots.pixels.flip(-1))
        expected = backbone.pool(backbone.forward_features(x))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got[:, 1], expected, rtol=1e-5, atol=1e-5)


def test_a_cache_can_be_learned_from(backbone: Backbone, shots: Pictures) -> None:
    x = at_fork(backbone, 3, shots, ("identity",), NONE).activations[:, 0].float()
    scale = torch.ones(1, requires_grad=True)
    (x * scale).sum().backward()  # type: ignore[no-untyped-call]
    assert scale.grad is not None


def test_views_are_the_eight_symmetries_of_a_square() -> None:
    corner = torch.arange(9).reshape(1, 1, 3, 3)
    assert len({tuple(view(corner).flatten().tolist()) for view in VIEWS.values()}) == 8
    assert torch.equal(VIEWS["identity"](corner), corner)
    assert torch.equal(VIEWS["hflip"](corner)[0, 0, 0], torch.tensor([2, 1, 0]))
    assert torch.equal(VIEWS["vflip"](corner)[0, 0, 0], torch.tensor([6, 7, 8]))


def test_out_of_range_values_are_cut_not_infinite(backbone: Backbone, shots: Pictures) -> None:
    huge = random_backbone("test_vit")
    with torch.no_grad():
        for parameter in huge.segments[0].model.get_submodule("patch_embed").parameters():
            parameter.mul_(1e6)
    cache = at_fork(huge, 1, shots, ("identity",), NONE)
    assert bool(torch.isfinite(cache.activations).all())
    assert float(cache.activations.abs().max()) == 65504


@pytest.mark.parametrize(
    ("views", "message"), [(("identity", "shear"), "no such view"), (("hflip",), "identity is missing")]
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


def test_the_cache_is_bounded(backbone: Backbone, shots: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = at_fork(backbone, 3, shots, ("identity",), NONE).activations.nbytes
    monkeypatch.setattr(features, "MAX_CACHE_BYTES", needed)
    at_fork(backbone, 3, shots, ("identity",), NONE)
    with pytest.raises(TooLargeError, match="the cache would take"):
        at_fork(backbone, 3, shots, ("identity", "hflip"), NONE)


def test_batches_cover_every_row_once() -> None:
    assert [range(20)[rows] for rows in batches(20, 8)] == [range(8), range(8, 16), range(16, 20)]
    assert list(batches(0)) == []
