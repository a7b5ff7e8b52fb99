"""Whatever bytes come, the answer is pixels or one of two errors with field, value and fix."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lensmount.errors import InvalidInputError, LensmountError, TooLargeError
from lensmount_adapters.pictures import decode_picture


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    picture = Image.fromarray(skimage.data.astronaut()).resize((40, 50)).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = 6
    tags[0x010F] = "maker" * 10
    tags.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    return tags


SEEDS = {
    "jpeg": encoded("JPEG"),
    "jpeg, exif": encoded("JPEG", exif=exif()),
    "jpeg, progressive": encoded("JPEG", progressive=True),
    "jpeg, cmyk": encoded("JPEG", "CMYK"),
    "mpo": encoded("MPO", save_all=True, append_images=[Image.new("RGB", (40, 50))]),
    "png": encoded("PNG", exif=exif()),
    "png, palette": encoded("PNG", "P", transparency=bytes(range(256))),
    "png, animated": encoded("PNG", save_all=True, append_images=[Image.new("RGB", (40, 50))]),
    "webp": encoded("WEBP", exif=exif()),
    "webp, lossless": encoded("WEBP", lossless=True),
    "bmp": encoded("BMP"),
    "bmp, palette": encoded("BMP", "P"),
}


def refusal(data: bytes) -> LensmountError | None:
    """The error that stands for these bytes, None when they decode; any other exception is a failed test."""
    try:
        pixels = decode_picture(data, field="encoded.data")
    except (InvalidInputError, TooLargeError) as caught:
        return checked(caught)
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return None


def checked(error: LensmountError) -> LensmountError:
    assert error.field == "encoded.data"
    assert error.value
    assert error.fix
    assert "Traceback" not in str(error)
    assert " at 0x" not in str(error)
    return error


def png(width: int, height: int, body: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def bmp(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def jpeg(width: int, height: int) -> bytes:
    """A real JPEG whose frame header claims another size."""
    data = bytearray(SEEDS["jpeg"])
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("name", SEEDS)
def test_the_seeds_themselves_decode(name: str) -> None:
    assert refusal(SEEDS[name]) is None


@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("tenths", range(10))
def test_a_truncated_picture_is_refused(name: str, tenths: int) -> None:
    data = SEEDS[name]
    error = refusal(data[: len(data) * tenths // 10])
    whole_first_picture = name in {"mpo", "png, animated"} and tenths > 4
    assert isinstance(error, InvalidInputError) or whole_first_picture


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff\xe0", b"GIF89a", b"<svg/>", b"not a picture", b"\0" * 1000, b"%PDF-1.7", b"BM"]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    assert isinstance(refusal(data), InvalidInputError)


@pytest.mark.parametrize("data", [png(0, 5), png(5, 0), png(0, 0), bmp(0, 5), bmp(5, 0), jpeg(0, 50), jpeg(40, 0)])
def test_a_picture_without_pixels_is_refused(data: bytes) -> None:
    assert isinstance(refusal(data), InvalidInputError)


@pytest.mark.parametrize(
    "data",
    [
        png(100_000, 100_000),
        png(100_000, 1),
        png(1, 100_000),
        png(9_000, 9_000),
        png(16_000, 6_000),
        bmp(100_000, 100_000),
        bmp(100_000, -1),
        jpeg(65_500, 65_500),
        jpeg(9_000, 9_000),
        jpeg(20_000, 1),
    ],
)
def test_a_picture_beyond_the_limits_is_refused_by_its_header(data: bytes) -> None:
    assert isinstance(refusal(data), TooLargeError)


def test_a_decompression_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = png(50_000, 50_000, bytes(10_000_000))
    assert len(bomb) < 20_000
    assert isinstance(refusal(bomb), TooLargeError)


def test_a_header_that_promises_more_than_comes_is_refused() -> None:
    assert isinstance(refusal(png(3000, 3000, bytes(100))), InvalidInputError)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400))
def test_random_bytes_are_refused(data: bytes) -> None:
    assert isinstance(refusal(data), InvalidInputError)


@settings(max_examples=300, deadline=None)
@given(start=st.sampled_from([data[:20] for data in SEEDS.values()]), data=st.binary(max_size=400))
def test_random_bytes_behind_a_real_beginning_are_refused(start: bytes, data: bytes) -> None:
    assert refusal(start + data) is not None


edits = st.lists(
    st.tuples(st.floats(0, 0.9999), st.sampled_from(["set", "cut", "add"]), st.binary(min_size=1, max_size=6)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=800, deadline=None)
@given(name=st.sampled_from(sorted(SEEDS)), edits=edits, header=st.booleans())
def test_a_mutated_picture_decodes_or_is_refused(
    name: str, edits: list[tuple[float, str, bytes]], header: bool
) -> None:
    data = bytearray(SEEDS[name])
    for where, kind, piece in edits:
        at = int(where * (min(200, len(data)) if header else len(data)))
        length = 0 if kind == "add" else len(piece)
        data[at : at + length] = b"" if kind == "cut" else piece
    refusal(with_checksums(bytes(data)) if name.startswith("png") else bytes(data))


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks are right again, so that the mutation is read and not only noticed."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack(">I", data[at : at + 4])[0]
        if end + 4 > len(data):
            break
        out += data[at:end] + struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(out) + data[at:]


def test_the_checksum_mender_does_what_it_says() -> None:
    data = SEEDS["png"]
    assert with_checksums(data) == data
    broken = bytearray(data)
    broken[20] ^= 1
    assert isinstance(refusal(bytes(broken)), InvalidInputError)
    assert with_checksums(bytes(broken)) != bytes(broken)


def test_damage_in_the_middle_of_a_jpeg_gives_pixels_of_the_right_size_or_a_refusal() -> None:
    data = bytearray(SEEDS["jpeg"])
    data[len(data) // 2] ^= 0xFF
    if refusal(bytes(data)) is None:
        assert decode_picture(bytes(data)).shape == (50, 40, 3)
        assert not np.array_equal(decode_picture(bytes(data)), decode_picture(SEEDS["jpeg"]))
