from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import Frame
from lensmount_server.video.conversion import READY, _own
from lensmount_server.video.decoder import PacketDecoder
from lensmount_server.video.picture import DecodedPicture
from opened import pixels_of
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
    return np.array(pixels_of(frames[0].picture)[frame.height // 2, frame.width // 2], np.int64)


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
    pixels = DecodedPicture(frame).pixels
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert abs(pixels.astype(int) - (200, 100, 50)).max() <= TOLERANCE


def test_rgb_pictures_pass_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    got = DecodedPicture(av.VideoFrame.from_ndarray(pixels, "gbrp")).pixels
    assert (got == pixels).all()


PREPROCESSING = Preprocessing(
    height=64, width=64, interpolation="bicubic", crop_pct=0.9, crop_mode="center", mean=(0.5,) * 3, std=(0.5,) * 3
)


def noise(width: int, height: int, pixel_format: str = "yuv420p") -> av.VideoFrame:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    return av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pixel_format)


def test_what_can_not_be_scaled_in_its_own_colours_goes_the_way_of_training() -> None:
    """Chroma would be enlarged, or the format is another one."""
    for picture in (DecodedPicture(noise(100, 90)), DecodedPicture(noise(320, 180, "gbrp"))):
        assert (picture.prepare(PREPROCESSING) == PREPROCESSING.prepare(pixels_of(picture))).all()
        assert (picture.prepare(PREPROCESSING) != PREPROCESSING.prepare(pixels_of(picture)[:, ::-1].copy())).any()


def converted(frames: list[Frame]) -> list[bool]:
    """Which of the frames have been converted."""
    return ["pixels" in vars(frame.picture) for frame in frames]


def test_no_picture_is_converted_that_nobody_asks_for() -> None:
    """But the first of a kind: a conversion that can not be done is found out there."""
    packets, _ = encode([noise(320, 180) for _ in range(5)])
    decoder = PacketDecoder("h264")
    frames = [out for packet in packets for out in decoder.decode(packet.data)] + decoder.flush()
    assert converted(frames) == [True, False, False, False, False]
    frames[2].picture.prepare(PREPROCESSING)
    _ = pixels_of(frames[3].picture)
    assert converted(frames) == [True, False, False, True, False]


def test_every_new_kind_is_tried() -> None:
    small, _ = encode([noise(160, 90) for _ in range(2)])
    large, _ = encode([noise(320, 180) for _ in range(2)])
    decoder = PacketDecoder("h264")
    frames = [out for packet in (*small, *large) for out in decoder.decode(packet.data)] + decoder.flush()
    assert converted(frames) == [True, False, True, False]


def test_what_can_not_be_converted_is_counted_as_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(picture: DecodedPicture) -> None:
        raise av.error.ArgumentError(22, f"no conversion of {picture.kind}")

    monkeypatch.setattr(DecodedPicture, "pixels", property(fails))
    packets, _ = encode([noise(160, 90) for _ in range(3)])
    decoder = PacketDecoder("h264")
    assert not [out for packet in packets for out in decoder.decode(packet.data)]
    assert decoder.broken == 3


def test_threads_do_not_share_what_they_convert_with() -> None:
    frames = [noise(160 + 64 * number, 90) for number in range(4)]
    wanted = [DecodedPicture(frame).pixels for frame in frames]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            got = list(threads.map(lambda frame: DecodedPicture(frame).pixels, frames * 8))
            assert all((one == other).all() for one, other in zip(got, wanted * 8, strict=True))


def test_a_thread_keeps_no_more_conversions_than_it_needs() -> None:
    for width in range(64, 64 + 4 * READY, 2):
        assert DecodedPicture(noise(width, 64)).pixels.shape == (64, width, 3)
    assert len(_own.ready) <= READY


def _first_pixels(path: Path, codec: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    decoder = PacketDecoder("h265" if codec == "h265" else "h264")
    frames = [frame for packet in annex_b(path) for frame in decoder.decode(*packet)] + decoder.flush()
    return pixels_of(frames[0].picture)


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
