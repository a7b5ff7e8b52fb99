"""Pictures reach the backbone as timm's own evaluation transform would bring them there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import skimage.data
import timm.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.pictures import Pixels
from lensmount_adapters.preprocessing import Preprocessing, _channels

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
# (height, width): landscape, portrait, exact, larger, smaller than the crop, one side smaller, tiny.
SIZES = [(427, 640), (640, 427), (224, 224), (256, 256), (720, 1280), (60, 100), (100, 60), (150, 400), (20, 33)]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BASE: dict[str, Any] = {
    "height": 224,
    "width": 224,
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": IMAGENET[0],
    "std": IMAGENET[1],
}


def photograph(name: str, size: tuple[int, int]) -> Pixels:
    picture = Image.fromarray(getattr(skimage.data, name)())
    return np.array(picture.resize((size[1], size[0]), Image.Resampling.LANCZOS))


def timms(own: Preprocessing, pixels: Pixels) -> Tensor:
    options = own.model_dump(include={"interpolation", "crop_pct", "crop_mode", "mean", "std"})
    transform = timm.data.create_transform(input_size=(3, own.height, own.width), **options)
    transformed: Tensor = transform(Image.fromarray(pixels))
    return transformed


def ours(own: Preprocessing, pixels: Pixels) -> Tensor:
    return own.normalize(own.prepare(pixels)[None])[0]


def grey_levels(own: Preprocessing, first: Tensor, second: Tensor) -> Tensor:
    return (first - second).abs() * torch.tensor(own.std).view(3, 1, 1) * 255


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("height", "width", "crop_pct"), [(224, 224, 0.875), (160, 160, 0.95), (192, 256, 0.9)])
def test_a_centre_crop_is_within_two_grey_levels_of_timms(
    interpolation: str, size: tuple[int, int], height: int, width: int, crop_pct: float
) -> None:
    changed = {"interpolation": interpolation, "height": height, "width": width, "crop_pct": crop_pct}
    own = Preprocessing(**{**BASE, **changed})
    pixels = photograph(PHOTOGRAPHS[sum(size) % 4], size)
    difference = grey_levels(own, ours(own, pixels), timms(own, pixels))
    assert float(difference.max()) < 2.01
    assert float(difference.mean()) < 0.1


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", SIZES)
def test_a_squashed_picture_is_within_two_grey_levels_of_timms(interpolation: str, size: tuple[int, int]) -> None:
    """Pillow may take height before width where torch does not: bicubic overshoot is clipped at another time."""
    own = Preprocessing(**{**BASE, "crop_mode": "squash", "interpolation": interpolation, "crop_pct": 1.0})
    pixels = photograph("coffee", size)
    difference = grey_levels(own, ours(own, pixels), timms(own, pixels))
    assert float((difference > 2.01).float().mean()) < 1e-3
    assert float(difference.mean()) < 0.3


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_wrong_colour_order_mean_or_resize_is_far_away(name: str) -> None:
    own = Preprocessing(**BASE)
    pixels = photograph(name, (427, 640))
    expected = timms(own, pixels)
    half = Preprocessing(**{**BASE, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    squashed = Preprocessing(**{**BASE, "crop_mode": "squash"})
    bilinear = Preprocessing(**{**BASE, "interpolation": "bilinear"})
    wrong = {
        "bgr": ours(own, np.ascontiguousarray(pixels[:, :, ::-1])),
        "mean": ours(half, pixels),
        "squash": ours(squashed, pixels),
        "bilinear": ours(bilinear, pixels),
    }
    furthest = {kind: float(grey_levels(own, tensor, expected).max()) for kind, tensor in wrong.items()}
    assert min(furthest.values()) > 8, furthest


def test_the_config_of_a_model_is_taken_over() -> None:
    model = timm.create_model("test_resnet")
    own = Preprocessing.from_timm(timm.data.resolve_model_data_config(model))
    half = (0.5, 0.5, 0.5)
    assert (own.height, own.width, own.crop_pct, own.crop_mode) == (160, 160, 0.95, "center")
    assert (own.interpolation, own.mean, own.std) == ("bilinear", half, half)


@pytest.mark.parametrize(
    ("name", "value"),
    [("interpolation", "lanczos"), ("crop_mode", "border"), ("crop_pct", 1.15), ("input_size", (3, 16, 224))],
)
def test_a_config_that_can_not_be_followed_is_refused(name: str, value: object) -> None:
    config = timm.data.resolve_model_data_config(timm.create_model("test_resnet"))
    with pytest.raises(InvalidInputError) as caught:
        Preprocessing.from_timm({**config, name: value})
    assert caught.value.field.startswith("preprocessing.")
    assert caught.value.fix


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (1, 900), (900, 1), (3, 2000)])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_a_picture_with_a_tiny_side_is_prepared_like_timms(size: tuple[int, int], crop_mode: str) -> None:
    own = Preprocessing(**{**BASE, "crop_mode": crop_mode})
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    difference = grey_levels(own, ours(own, pixels), timms(own, pixels))
    assert float(difference.mean()) < 0.5


@pytest.mark.parametrize("size", [(1, 16_384), (16_384, 1), (1, 1000), (4, 16_384)])
def test_a_strip_too_narrow_to_resize_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidInputError, match="too narrow") as caught:
        Preprocessing(**BASE).prepare(np.zeros((*size, 3), dtype=np.uint8))
    assert caught.value.value == f"{size[1]}x{size[0]}"
    assert caught.value.fix


def test_the_same_strip_can_be_squashed() -> None:
    own = Preprocessing(**{**BASE, "crop_mode": "squash"})
    assert own.prepare(np.zeros((1, 16_384, 3), dtype=np.uint8)).shape == (3, 224, 224)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    side=st.sampled_from([(32, 32), (48, 64), (64, 48), (33, 47)]),
    crop_pct=st.floats(0.25, 1.0),
    crop_mode=st.sampled_from(["center", "squash"]),
)
def test_every_size_gives_exactly_the_wanted_size(
    height: int, width: int, side: tuple[int, int], crop_pct: float, crop_mode: str
) -> None:
    changed = {"height": side[0], "width": side[1], "crop_pct": crop_pct, "crop_mode": crop_mode}
    pixels = np.full((height, width, 3), 77, dtype=np.uint8)
    prepared = Preprocessing(**{**BASE, **changed}).prepare(pixels)
    assert prepared.shape == (3, *side)
    assert prepared.dtype == torch.uint8
    assert prepared.is_contiguous()
    assert bool((prepared == 77).all())


def test_pixels_may_be_read_only_and_stay_as_they_are() -> None:
    """Raw frames are views of the received bytes; they can not be written, and are not."""
    original = photograph("coffee", (224, 300))
    pixels = np.frombuffer(original.tobytes(), dtype=np.uint8).reshape(original.shape)
    own = Preprocessing(**{**BASE, "crop_pct": 1.0})
    batch = own.prepare(pixels)[None]
    before = batch.clone()
    own.normalize(batch)
    assert torch.equal(batch, before)
    assert np.array_equal(pixels, original)
    assert torch.equal(batch[0], own.prepare(original))


def test_what_is_kept_for_normalizing_can_be_trained_with_whoever_came_first() -> None:
    _channels.cache_clear()
    own = Preprocessing(**BASE)
    batch = torch.zeros(1, 3, own.height, own.width, dtype=torch.uint8)
    with torch.inference_mode():
        first = own.normalize(batch)
    assert torch.equal(own.normalize(batch), first)
    assert not _channels(own.mean, batch.device).is_inference()
    with torch.inference_mode():
        assert torch.zeros(1).is_inference()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("std", (0.0, 1.0, 1.0)),
        ("std", (-1.0, 1.0, 1.0)),
        ("mean", (float("nan"), 0.0, 0.0)),
        ("mean", (0.5, 0.5)),
        ("crop_pct", 1e-300),
        ("crop_pct", 1.01),
        ("height", 16),
        ("width", 100_000),
        ("interpolation", "nearest"),
        ("crop_mode", "border"),
    ],
)
def test_values_that_would_break_serving_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        Preprocessing(**{**BASE, name: value})
