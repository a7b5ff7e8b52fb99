from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from lensmount.errors import TooLargeError
from lensmount_server.video.decoder import PacketDecoder
from lensmount_server.video.limits import PictureLimits
from lensmount_server.video.picture import PictureConverter
from videos import annex_b, clip, encode, flat

BT709, UNSPECIFIED, BT601 = 1, 2, 6
SILENT, LIMITED, FULL = 0, 1, 2
WEIGHTS = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114)}  # Kr and Kb of ITU-R BT.709 and BT.601
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 100, 50), (10, 120, 240)]
TOLERANCE = 4


def to_yuv(rgb: tuple[int, int, int], matrix: int, colour_range: int) -> tuple[int, int, int]:
    """The equations of the two standards, 8 bits."""
    kr, kb = WEIGHTS[matrix]
    red, green, blue = (value / 255 for value in rgb)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    floor, span, chroma_span = (0, 255, 255) if colour_range == FULL else (16, 219, 224)
    values = (floor + span * luma, *(128 + chroma_span * part for part in chroma))
    first, second, third = (min(255, round(value)) for value in values)
    return first, second, third


def decoded(frame: av.VideoFrame) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The colour in the middle of the picture after H.264 and the whole decoder."""
    packets, _ = encode([frame], options={"crf": "1"})
    decoder = PacketDecoder("h264")
    frames = [out for packet in packets for out in decoder.decode(packet.data)] + decoder.flush()
    return np.array(frames[0].pixels[frame.height // 2, frame.width // 2], np.int64)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", [BT709, BT601])
def test_the_stream_says_how_its_colours_are_meant(
    matrix: int, colour_range: int, colour: tuple[int, int, int]
) -> None:
    yuv = to_yuv(colour, matrix, colour_range)
    got = decoded(flat(yuv, 64, 64, matrix=matrix, colour_range=colour_range))
    assert abs(got - colour).max() <= TOLERANCE


@pytest.mark.parametrize(("height", "matrix"), [(718, BT601), (720, BT709)])
def test_a_silent_stream_is_taken_by_its_height(height: int, matrix: int) -> None:
    colour = (200, 100, 50)
    yuv = to_yuv(colour, matrix, LIMITED)
    got = decoded(flat(yuv, 64, height, matrix=UNSPECIFIED, colour_range=SILENT))
    assert abs(got - colour).max() <= TOLERANCE


def test_the_tolerance_tells_matrices_and_ranges_apart() -> None:
    colour = (200, 100, 50)
    for wrong in ((BT601, LIMITED), (BT709, FULL)):
        got = decoded(flat(to_yuv(colour, *wrong), 64, 64, matrix=BT709, colour_range=LIMITED))
        assert abs(got - colour).max() > TOLERANCE


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 5), (322, 240)])
def test_any_size_comes_out_without_padding(width: int, height: int) -> None:
    frame = flat(to_yuv((200, 100, 50), BT709, LIMITED), width, height, matrix=BT709, colour_range=LIMITED)
    pixels = PictureConverter(PictureLimits()).convert(frame)
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert abs(pixels.astype(int) - (200, 100, 50)).max() <= TOLERANCE


def test_rgb_pictures_pass_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    got = PictureConverter(PictureLimits()).convert(av.VideoFrame.from_ndarray(pixels, "gbrp"))
    assert (got == pixels).all()


def test_a_picture_beyond_the_limits_is_refused() -> None:
    frame = flat((128, 128, 128), 40, 20, matrix=BT709, colour_range=LIMITED)
    with pytest.raises(TooLargeError):
        PictureConverter(PictureLimits(max_side=39)).convert(frame)
    with pytest.raises(TooLargeError):
        PictureConverter(PictureLimits(max_pixels=799)).convert(frame)


def _first_pixels(path: Path, codec: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    decoder = PacketDecoder("h265" if codec == "h265" else "h264")
    frames = [frame for packet in annex_b(path) for frame in decoder.decode(*packet)] + decoder.flush()
    return frames[0].pixels


def test_a_real_full_range_clip() -> None:
    path = clip("bt709_full_range.mp4")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        luma = np.frombuffer(bytes(frame.planes[0]), np.uint8).reshape(-1, frame.planes[0].line_size)[:720, :1280]
    pixels = _first_pixels(path, "h264").astype(float)
    grey = pixels @ np.array([0.2126, 0.7152, 0.0722])
    inside = (pixels.min(axis=2) > 2) & (pixels.max(axis=2) < 253)  # where RGB did not clip
    assert abs(grey - luma)[inside].mean() < 1.0  # full range: the luma is the grey value itself


def test_a_real_ten_bit_clip() -> None:
    pixels = _first_pixels(clip("h265_10bits.mp4"), "h265")
    assert pixels.shape == (200, 200, 3)
    assert pixels.std() > 10
