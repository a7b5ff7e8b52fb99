from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import Still
from lensmount_server.video.picture import DecodedPicture
from lensmount_server.video.settings import ROTATIONS, Region
from lensmount_server.video.view import View
from opened import pixels_of
from videos import numbered, write_clip

sizes = st.integers(1, 90)
rotations = st.sampled_from(ROTATIONS)
FORMATS = ("yuv420p", "yuv422p", "yuv444p", "nv12", "yuv420p10le", "gbrp", "gray")


@st.composite
def regions(draw: st.DrawFn) -> Region:
    left, top = draw(st.floats(0, 0.99)), draw(st.floats(0, 0.99))
    return Region(left, top, draw(st.floats(0.001, 1 - left)), draw(st.floats(0.001, 1 - top)))


def texture(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)


def by_numpy(pixels: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    turned = np.rot90(pixels, -(view.rotation // 90))
    box = view.box(turned.shape[1], turned.shape[0])
    return turned[box.top : box.top + box.height, box.left : box.left + box.width]


@settings(deadline=None)
@given(sizes, sizes, rotations, regions())
def test_stills_are_turned_and_cut_as_numpy_does(width: int, height: int, rotation: int, region: Region) -> None:
    view, pixels = View(rotation, region), texture(width, height)
    seen = view.of(Still(pixels))
    wanted = by_numpy(pixels, view)
    assert (seen.pixels == wanted).all()
    assert (seen.height, seen.width) == wanted.shape[:2]
    assert seen.pixels.flags.c_contiguous
    assert seen.grey().shape == wanted.shape[:2]


@settings(deadline=None, max_examples=300)
@given(sizes, sizes, rotations, regions(), st.sampled_from(FORMATS))
def test_decoded_pictures_are_turned_and_cut_as_numpy_does(
    width: int, height: int, rotation: int, region: Region, pixel_format: str
) -> None:
    frame = av.VideoFrame.from_ndarray(texture(width, height), "rgb24").reformat(format=pixel_format)
    view, whole = View(rotation, region), DecodedPicture(frame)
    seen = view.of(DecodedPicture(frame))
    wanted = by_numpy(whole.pixels, view)
    assert (seen.height, seen.width) == wanted.shape[:2] == seen.grey().shape
    assert seen.pixels.shape == wanted.shape
    assert abs(seen.pixels.astype(int) - wanted).max() <= 3  # FFmpeg converts rows of other lengths by other code
    assert seen.pixels.flags.c_contiguous


@given(st.integers(1, 5000), regions())
def test_a_region_has_pixels_and_lies_in_the_picture(length: int, region: Region) -> None:
    box = View(0, region).box(length, length)
    for start, size, share, part in (
        (box.left, box.width, region.left, region.width),
        (box.top, box.height, region.top, region.height),
    ):
        assert start >= 0
        assert size >= 1
        assert start + size <= length
        assert abs(start - share * length) <= 2
        assert abs(start + size - (share + part) * length) <= 3
        assert start % 2 == 0


def test_nothing_to_do_is_nothing_done() -> None:
    picture = Still(texture(8, 8))
    assert View().of(picture) is picture
    assert View(0, Region(0.0, 0.0, 1.0, 1.0)).of(picture) is picture


def preprocessing(height: int, width: int, crop_mode: str = "center") -> Preprocessing:
    half = (0.5, 0.5, 0.5)
    return Preprocessing.model_validate(
        {"height": height, "width": width, "interpolation": "bilinear", "crop_pct": 0.9, "crop_mode": crop_mode,
         "mean": half, "std": half}
    )  # fmt: skip


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("region", [Region(), Region(0.1, 0.2, 0.8, 0.7), Region(0.5, 0.0, 0.5, 1.0)])
@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 49)])
def test_a_backbone_sees_the_view(rotation: int, region: Region, size: tuple[int, int]) -> None:
    """Scaled in the decoder's colours and then turned, against turned and then prepared as training does."""
    smooth = np.asarray(cv2.resize(texture(24, 16), (642, 362), interpolation=cv2.INTER_CUBIC), np.uint8)
    frame = av.VideoFrame.from_ndarray(smooth, "rgb24").reformat(format="yuv420p", dst_colorspace=5)
    view, wanted = View(rotation, region), preprocessing(*size)
    pixels = by_numpy(DecodedPicture(frame).pixels, view)
    got = view.of(DecodedPicture(frame)).prepare(wanted).float()
    assert abs(got - wanted.prepare(pixels.copy()).float()).mean() <= 1.5  # the fast conversion alone is 1.2 off
    turned_wrongly = np.ascontiguousarray(np.rot90(pixels, 2))
    assert abs(got - wanted.prepare(turned_wrongly).float()).mean() > 10


def test_a_part_keeps_the_colours_of_a_silent_stream() -> None:
    """BT.709 is meant from 720 lines on: a part of such a picture is lower, and means it too."""
    colour = np.full((720, 1280, 3), (200, 100, 50), np.uint8)
    frame = av.VideoFrame.from_ndarray(colour, "rgb24").reformat(format="yuv420p", dst_colorspace=1)
    frame.colorspace, frame.color_range = 2, 0
    part = View(90, Region(0.25, 0.25, 0.5, 0.5)).of(DecodedPicture(frame))
    assert abs(part.pixels.astype(int) - (200, 100, 50)).max() <= 3
    assert abs(part.prepare(preprocessing(64, 64)).float().mean((1, 2)) - 200).min() <= 2


def write_turned(path: Path, degrees: int) -> Path:
    """A film as phones write it: the pictures lie, and the track's matrix says how to turn them clockwise."""
    write_clip(path, 2)
    data = bytearray(path.read_bytes())
    one, minus = (0x10000).to_bytes(4, "big"), (-0x10000).to_bytes(4, "big", signed=True)
    sine, cosine = {0: (b"", one), 90: (one, b""), 180: (b"", minus), 270: (minus, b"")}[degrees]
    negative = {one: minus, minus: one}.get(sine, b"")
    a, b, c, d = (part or bytes(4) for part in (cosine, sine, negative, cosine))
    place = data.index(b"tkhd") + 4 + 40
    data[place : place + 36] = a + b + bytes(4) + c + d + bytes(12) + (0x40000000).to_bytes(4, "big")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("degrees", ROTATIONS)
def test_a_phones_film_stands_upright_as_opencv_shows_it(tmp_path: Path, degrees: int) -> None:
    path = write_turned(tmp_path / "a.mp4", degrees)
    opencv = cv2.VideoCapture(str(path))
    _, shown = opencv.read()
    opencv.release()
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    picture = DecodedPicture(frame)
    assert pixels_of(picture).shape == shown.shape == ((320, 240, 3) if degrees % 180 else (240, 320, 3))
    assert abs(pixels_of(picture).astype(int) - shown[:, :, ::-1]).mean() < 3
    assert abs(np.rot90(numbered(0), -degrees // 90).astype(int) - pixels_of(picture)).mean() < 3
    assert abs(picture.turned(2).pixels.astype(int) - shown[::-1, ::-1, ::-1]).mean() < 3
