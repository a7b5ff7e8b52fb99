from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensmount import InvalidInputError
from lensmount.pictures import infer_request
from lensmount.v1 import inference_pb2

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def test_pixels_are_sent_as_they_are() -> None:
    raw = infer_request(PIXELS).raw
    assert (raw.width, raw.height, raw.pixel_format) == (7, 5, inference_pb2.PIXEL_FORMAT_RGB24)
    assert raw.data == PIXELS.tobytes()


@pytest.mark.parametrize("view", [PIXELS[::-1], PIXELS[:, ::2], PIXELS.transpose(1, 0, 2), PIXELS[..., ::-1]])
def test_views_are_sent_in_reading_order(view: Any) -> None:
    raw = infer_request(view).raw
    assert (np.frombuffer(raw.data, np.uint8).reshape(raw.height, raw.width, 3) == view).all()


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_path_is_read(as_path: Any, tmp_path: Path) -> None:
    (tmp_path / "part.jpg").write_bytes(b"jpeg")
    assert infer_request(as_path(tmp_path / "part.jpg")).encoded.data == b"jpeg"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_encoded_bytes_are_sent_as_they_are(kind: Any) -> None:
    assert infer_request(kind(b"png")).encoded.data == b"png"


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (PIXELS.astype(np.float32), "float32"),
        (PIXELS[..., 0], r"\(5, 7\)"),
        (PIXELS[None], r"\(1, 5, 7, 3\)"),
        (np.zeros((5, 7, 4), np.uint8), r"\(5, 7, 4\)"),
        (np.zeros((0, 7, 3), np.uint8), "1 to 16384"),
        (np.zeros((1, 16385, 3), np.uint8), "1 to 16384"),
        (b"", "0 bytes"),
        ("/no/such/picture.jpg", "picture.jpg"),
        (".", "not readable"),
        (None, "NoneType"),
        (3, "int"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_fix(image: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as caught:
        infer_request(image)
    assert caught.value.field == "image"
    assert caught.value.fix
