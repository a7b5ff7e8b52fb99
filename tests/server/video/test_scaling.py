"""What a backbone sees of a decoded picture, against the standards' equations followed by training's own steps."""

from __future__ import annotations

from collections.abc import Callable

import av
import cv2
import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray

from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.video.picture import DecodedPicture
from lensmount_server.video.planes import PLANAR, luma, planes_of
from videos import clip

BT709, BT601 = 1, 5
LIMITED, FULL = 1, 2
WEIGHTS = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114)}  # Kr and Kb of ITU-R BT.709 and BT.601
# Levels of 255 on photographs: mean, and of one value in a thousand. The bias is that of any channel.
MEAN, RARE, BIAS = 0.5, 4, 0.2


def preprocessing(size: int = 224, interpolation: str = "bicubic", crop_pct: float = 0.9) -> Preprocessing:
    half = (0.5, 0.5, 0.5)
    return Preprocessing.model_validate(
        {"height": size, "width": size, "interpolation": interpolation, "crop_pct": crop_pct,
         "crop_mode": "center", "mean": half, "std": half}
    )  # fmt: skip


def photograph(name: str, width: int = 1280, height: int = 720) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(getattr(skimage.data, name)(), (width, height), interpolation=cv2.INTER_CUBIC))


def coded(
    pixels: NDArray[np.uint8], matrix: int = BT709, colour_range: int = LIMITED, pixel_format: str = "yuv420p"
) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
    coded = frame.reformat(format=pixel_format, dst_colorspace=matrix, dst_color_range=colour_range)
    coded.colorspace, coded.color_range = matrix, colour_range
    return coded


def by_the_equations(frame: av.VideoFrame, matrix: int, colour_range: int, shift: int = 0) -> NDArray[np.uint8]:
    """RGB of a planar picture, each chroma value repeated, or `shift` pixels beside its place."""
    y = luma(frame)
    assert y is not None
    layout = PLANAR[frame.format.name]
    chroma = []
    for plane in frame.planes[1:]:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        whole = rows.repeat(layout.across, axis=1).repeat(layout.down, axis=0)
        chroma.append(np.roll(whole, shift, axis=1)[: frame.height, : frame.width].astype(float) - 128)
    kr, kb = WEIGHTS[matrix]
    floor, span, chroma_span = (0, 255, 255) if colour_range == FULL else (16, 219, 224)
    grey, blue, red = (y.astype(float) - floor) / span, chroma[0] / chroma_span, chroma[1] / chroma_span
    r, b = grey + 2 * (1 - kr) * red, grey + 2 * (1 - kb) * blue
    g = (grey - kr * r - kb * b) / (1 - kr - kb)
    return (np.stack((r, g, b), axis=2) * 255).round().clip(0, 255).astype(np.uint8)


def off(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float, float]:
    """Mean and 99.9th percentile of the difference in levels, and the largest bias of a channel."""
    difference = one.float() - other.float()
    bias = float(difference.mean((1, 2)).abs().max())
    return float(difference.abs().mean()), float(difference.abs().flatten().quantile(0.999)), bias


def agree(one: torch.Tensor, other: torch.Tensor) -> bool:
    mean, rare, bias = off(one, other)
    return mean <= MEAN and rare <= RARE and bias <= BIAS


@pytest.mark.parametrize("name", ["coffee", "astronaut", "chelsea", "rocket"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("matrix", "colour_range"), [(BT709, LIMITED), (BT601, LIMITED), (BT709, FULL), (BT601, FULL)])
def test_photographs(name: str, interpolation: str, matrix: int, colour_range: int) -> None:
    frame, prepare = coded(photograph(name), matrix, colour_range), preprocessing(interpolation=interpolation).prepare
    wanted = prepare(by_the_equations(frame, matrix, colour_range))
    assert agree(DecodedPicture(frame).prepare(preprocessing(interpolation=interpolation)), wanted)


WRONG: dict[str, Callable[[av.VideoFrame], NDArray[np.uint8]]] = {
    "matrix": lambda frame: by_the_equations(frame, BT601, LIMITED),
    "range": lambda frame: by_the_equations(frame, BT709, FULL),
    "siting": lambda frame: by_the_equations(frame, BT709, LIMITED, shift=2),
    "colours": lambda frame: by_the_equations(frame, BT709, LIMITED)[:, :, ::-1].copy(),
    "place": lambda frame: np.roll(by_the_equations(frame, BT709, LIMITED), 1, axis=0),
    "rounding": lambda frame: DecodedPicture(frame).pixels,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_tolerance_finds_mistakes(wrong: str) -> None:
    """A chroma plane that is one of its pixels off, and FFmpeg's fast conversion, which rounds down, among them."""
    frame = coded(photograph("coffee"))
    got = DecodedPicture(frame).prepare(preprocessing())
    assert not agree(got, preprocessing().prepare(WRONG[wrong](frame)))


@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("size", [(1920, 1080), (1024, 768), (720, 1280), (1286, 722)])
def test_other_sizes(size: tuple[int, int], crop_pct: float) -> None:
    frame, wanted = coded(photograph("astronaut", *size)), preprocessing(crop_pct=crop_pct)
    assert agree(DecodedPicture(frame).prepare(wanted), wanted.prepare(by_the_equations(frame, BT709, LIMITED)))


@pytest.mark.parametrize("pixel_format", sorted(PLANAR))
def test_every_format(pixel_format: str) -> None:
    colour_range = FULL if pixel_format.startswith("yuvj") else LIMITED
    frame = coded(photograph("coffee"), BT601, colour_range, pixel_format)
    wanted = preprocessing().prepare(by_the_equations(frame, BT601, colour_range))
    assert agree(DecodedPicture(frame).prepare(preprocessing()), wanted)


def test_noise_and_hard_edges_stay_near() -> None:
    """Colours that RGB clips before it is scaled, and not after: the worst there is, far from any camera's picture."""
    random = np.random.default_rng(0)
    bars = random.integers(0, 2, (1, 40, 3), np.uint8).repeat(720, axis=0).repeat(32, axis=1) * 255
    for pixels in (random.integers(0, 256, (720, 1280, 3), np.uint8), bars):
        frame = coded(np.ascontiguousarray(pixels))
        got = DecodedPicture(frame).prepare(preprocessing())
        mean, rare, _ = off(got, preprocessing().prepare(by_the_equations(frame, BT709, LIMITED)))
        assert mean <= 2
        assert rare <= 32


def test_a_real_clip_of_full_range() -> None:
    """A test pattern: hard edges between colours at the limit."""
    with av.open(str(clip("bt709_full_range.mp4"))) as container:
        frame = next(container.decode(video=0))
    got = DecodedPicture(frame).prepare(preprocessing())
    assert off(got, preprocessing().prepare(by_the_equations(frame, BT709, FULL)))[0] <= 1
    assert off(got, preprocessing().prepare(by_the_equations(frame, BT709, LIMITED)))[0] > 5


def test_a_silent_stream_is_taken_by_its_height() -> None:
    frame = coded(photograph("coffee", 1280, 720))
    wanted = preprocessing().prepare(by_the_equations(frame, BT709, LIMITED))
    frame.colorspace, frame.color_range = 2, 0
    assert agree(DecodedPicture(frame).prepare(preprocessing()), wanted)


def test_planes_without_padding() -> None:
    frame = av.VideoFrame.from_ndarray(np.arange(3 * 5 * 7, dtype=np.uint8).reshape(5, 7, 3), "rgb24")
    green, blue, red = planes_of(frame.reformat(format="gbrp"))
    assert (np.stack((red, green, blue), axis=2).ravel() == np.arange(3 * 5 * 7)).all()
