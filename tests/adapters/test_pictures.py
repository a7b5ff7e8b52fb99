"""Every kind of still that people have decodes to upright RGB."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from lensmount.errors import InvalidInputError, TooLargeError
from lensmount_adapters.pictures import MAX_PIXELS, MAX_SIDE, Pixels, check_sides, decode_picture

ORIENTATION = 0x0112


def photograph() -> Image.Image:
    return Image.fromarray(skimage.data.coffee()).resize((120, 80))


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def levels(first: Pixels, second: Pixels | Image.Image) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(first.astype(float) - np.asarray(second, dtype=float)).mean())


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0.0),
        ("BMP", {}, 0.0),
        ("WEBP", {"lossless": True}, 0.0),
        ("WEBP", {"quality": 95}, 4.0),
        ("JPEG", {"quality": 95}, 4.0),
        ("JPEG", {"quality": 95, "progressive": True}, 4.0),
        ("MPO", {"quality": 95}, 4.0),
    ],
)
def test_a_picture_comes_back_as_rgb(kind: str, options: dict[str, Any], tolerance: float) -> None:
    pixels = decode_picture(encoded(photograph(), kind, **options))
    assert pixels.shape == (80, 120, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert levels(pixels, photograph()) <= tolerance
    assert levels(np.ascontiguousarray(pixels[:, :, ::-1]), photograph()) > 20


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    lying = photograph().transpose(turns[orientation]) if orientation in turns else photograph()
    pixels = decode_picture(encoded(lying, kind, exif=exif, quality=95))
    assert pixels.shape == (80, 120, 3)
    assert levels(pixels, photograph()) < 5


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK"])
def test_other_modes_are_converted(mode: str) -> None:
    picture = photograph().convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    pixels = decode_picture(encoded(picture, kind))
    assert pixels.shape == (80, 120, 3)
    assert levels(pixels, picture.convert("RGB")) < 6


def test_a_palette_with_transparency_is_converted() -> None:
    picture = photograph().convert("P", palette=Image.Palette.ADAPTIVE)
    pixels = decode_picture(encoded(picture, "PNG", transparency=bytes(range(256))))
    assert levels(pixels, picture.convert("RGB")) < 1


def test_sixteen_bits_keep_the_upper_eight() -> None:
    ramp = np.linspace(0, 65_535, 80 * 120).reshape(80, 120).astype(np.uint16)
    pixels = decode_picture(encoded(Image.fromarray(ramp), "PNG"))
    assert np.array_equal(pixels, np.repeat((ramp >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "MPO"])
def test_of_an_animation_the_first_picture_is_taken(kind: str) -> None:
    colours = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    pixels = decode_picture(encoded(colours[0], kind, save_all=True, append_images=colours[1:]))
    assert pixels.shape == (30, 40, 3)
    assert levels(pixels, colours[0]) < 5


def test_the_largest_side_is_taken() -> None:
    pixels = decode_picture(encoded(Image.new("L", (MAX_SIDE, 1), 9), "PNG"))
    assert pixels.shape == (1, MAX_SIDE, 3)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "ICO", "PCX"])
def test_formats_that_are_not_promised_are_refused(kind: str) -> None:
    with pytest.raises(InvalidInputError, match="not a picture"):
        decode_picture(encoded(photograph(), kind))


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (0, 0), (-1, 5)])
def test_no_pixels_is_invalid(width: int, height: int) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_sides(width, height, field="frame")
    assert caught.value.field == "frame"
    assert caught.value.value == f"{width}x{height}"


@pytest.mark.parametrize(
    ("width", "height"), [(MAX_SIDE + 1, 1), (1, 100_000), (100_000, 100_000), (8001, MAX_PIXELS // 8000)]
)
def test_too_many_pixels_are_too_large(width: int, height: int) -> None:
    with pytest.raises(TooLargeError) as caught:
        check_sides(width, height)
    assert caught.value.value == f"{width}x{height}"
    assert f"{MAX_PIXELS:,}" in caught.value.fix


def test_the_limits_themselves_are_allowed() -> None:
    check_sides(MAX_SIDE, 1)
    check_sides(8000, MAX_PIXELS // 8000)
    check_sides(1, 1)
