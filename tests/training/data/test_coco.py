"""COCO: every box is a picture of its own, and the crops are the pixels that the box says."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from factories import random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.pictures import Pixels
from lensmount_training.data import Listing, Skipped, crops, files, reading
from lensmount_training.data.coco import is_coco, list_coco
from lensmount_training.data.crops import Box, Part, list_parts
from lensmount_training.progress import NoProgress
from stills import encoded

WIDTH, HEIGHT = 60, 40
CATEGORIES = [{"id": 1, "name": "scratch"}, {"id": 7, "name": "hole"}, {"id": 9, "name": "unused"}]


def board(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def annotation(image: int, category: int, box: list[float] | None = None, **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "category_id": category, **({} if box is None else {"bbox": box}), **more}


def document(annotations: list[dict[str, Any]], images: int = 3, *, sized: bool = True) -> dict[str, Any]:
    size = {"width": WIDTH, "height": HEIGHT} if sized else {}
    listed = [{"id": number, "file_name": f"boards/{number}.png", **size} for number in range(images)]
    return {"images": listed, "annotations": annotations, "categories": CATEGORIES}


def coco(folder: Path, content: dict[str, Any], margin: float = 0.0) -> Listing:
    (folder / "boards").mkdir(exist_ok=True)
    for number in range(3):
        Image.fromarray(board(number)).save(folder / "boards" / f"{number}.png")
    (folder / "coco.json").write_text(json.dumps(content))
    return list_coco(folder / "coco.json", content, margin)


def test_every_box_is_a_picture(tmp_path: Path) -> None:
    boxes = [annotation(0, 1, [10, 20, 30, 10]), annotation(2, 7, [0, 0, 60, 40]), annotation(0, 7, [5, 5, 8, 8])]
    listing = coco(tmp_path, document([*boxes, annotation(1, 1, [1, 2, 3, 4])]))
    assert (listing.form, listing.kind, listing.labels) == ("coco", "single_label", ("hole", "scratch"))
    assert [(entry.file, entry.labels, entry.group) for entry in listing.entries] == [
        ("boards/0.png#xywh=10,20,30,10", ("scratch",), "boards/0.png"),
        ("boards/0.png#xywh=5,5,8,8", ("hole",), "boards/0.png"),
        ("boards/1.png#xywh=1,2,3,4", ("scratch",), "boards/1.png"),
        ("boards/2.png#xywh=0,0,60,40", ("hole",), "boards/2.png"),
    ]
    assert np.array_equal(listing.entries[0].read().decode(), board(0)[20:30, 10:40])
    assert np.array_equal(listing.entries[3].read().decode(), board(2))
    assert listing.skipped == ()


def test_digests_name_picture_and_box(tmp_path: Path) -> None:
    boxes = [annotation(0, 1, [10, 20, 30, 10]), annotation(0, 7, [10, 20, 30, 11]), annotation(1, 7, [10, 20, 30, 10])]
    listing = coco(tmp_path, document(boxes))
    digests = [entry.read().digest for entry in listing.entries]
    assert len(set(digests)) == 3
    (tmp_path / "boards" / "0.png").rename(tmp_path / "boards" / "renamed.png")
    content = document(boxes)
    content["images"][0]["file_name"] = "boards/renamed.png"
    again = list_coco(tmp_path / "coco.json", content)
    assert [entry.read().digest for entry in again.entries] == digests


@pytest.mark.parametrize(
    ("box", "margin", "name"),
    [
        ([10.2, 20.7, 5.0, 5.0], 0.0, "10,20,6,6"),
        ([10, 20, 10, 10], 0.1, "9,19,12,12"),
        ([10, 20, 20, 10], 0.5, "0,15,40,20"),
        ([-5, -5, 20, 20], 0.0, "0,0,15,15"),
        ([50, 30, 100, 100], 0.0, "50,30,10,10"),
        ([10.0004, 20, 5.0, 5.0], 0.0, "10,20,5,5"),
        ([55, 35, 5, 5], 1.0, "50,30,10,10"),
    ],
)
def test_margins_and_edges(tmp_path: Path, box: list[float], margin: float, name: str) -> None:
    listing = coco(tmp_path, document([annotation(0, 1, box), annotation(1, 7, [1, 1, 9, 9])]), margin)
    assert listing.entries[0].file == f"boards/0.png#xywh={name}"
    left, top, width, height = map(int, name.split(","))
    assert np.array_equal(listing.entries[0].read().decode(), board(0)[top : top + height, left : left + width])


SIDES = st.floats(-200, 200) | st.sampled_from([0.0, 1.0, 0.5, float("nan"), float("inf"), -1.0, 1e300])


@given(st.tuples(SIDES, SIDES, SIDES, SIDES), st.floats(0, 10), st.booleans())
def test_a_crop_lies_in_the_picture_and_holds_the_box(
    box: tuple[float, float, float, float], margin: float, sized: bool
) -> None:
    size = (WIDTH, HEIGHT) if sized else None
    (found,) = list_parts([Part("a.png", Path("a.png"), Box(*box, size), ("x",))], margin)
    if isinstance(found, Skipped):
        assert found.reason in ("a box of less than a pixel", "a box outside of the picture")
        return
    left, top, width, height = map(int, found.file.rpartition("=")[2].split(","))
    assert left >= 0 and top >= 0 and width >= 1 and height >= 1  # noqa: PT018
    assert left <= max(box[0], 0) + 0.001
    assert top <= max(box[1], 0) + 0.001
    if sized:
        assert left + width <= WIDTH
        assert top + height <= HEIGHT
        assert left + width >= min(box[0] + box[2], WIDTH) - 0.001


def test_what_can_not_be_used_is_skipped_with_a_reason(tmp_path: Path) -> None:
    good = [annotation(0, 1, [1, 1, 9, 9]), annotation(0, 7, [2, 2, 9, 9])]
    bad = [
        annotation(0, 1, [5, 5, 0, 9]),
        annotation(0, 1, [5, 5, 9, -3]),
        annotation(0, 1, [5, 5, 0.5, 9]),
        annotation(0, 1, [70, 5, 9, 9]),
        annotation(0, 1, []),
        annotation(0, 1, [1, 2, 3]),
        annotation(0, 1),
        annotation(0, 1, [1, 1, 9, 8], iscrowd=1),
        annotation(5, 1, [1, 1, 9, 8]),
        annotation(0, 77, [1, 1, 9, 8]),
        annotation(3, 1, [1, 1, 9, 8]),
    ]
    listing = coco(tmp_path, document([*good, *bad], images=4))
    assert len(listing.entries) == 2
    assert sorted((skip.file, skip.reason) for skip in listing.skipped) == sorted(
        [
            ("an annotation of image 5", "no such image in the file"),
            ("an annotation of image 0", "no category 77 in the file"),
            ("boards/0.png 5,5,0,9", "a box of less than a pixel"),
            ("boards/0.png 5,5,9,-3", "a box of less than a pixel"),
            ("boards/0.png 5,5,0.5,9", "a box of less than a pixel"),
            ("boards/0.png 70,5,9,9", "a box outside of the picture"),
            ("boards/0.png", "an annotation of scratch without a box"),
            ("boards/0.png", "an annotation of scratch without a box"),
            ("boards/0.png", "an annotation of scratch without a box"),
            ("boards/0.png", "a crowd of scratch in one box"),
            ("boards/1.png", "no box in it"),
            ("boards/2.png", "no box in it"),
            ("boards/3.png", "no such file"),
        ]
    )


def test_one_box_with_two_categories_is_not_used(tmp_path: Path) -> None:
    boxes = [annotation(0, 1, [1, 1, 9, 9]), annotation(0, 7, [1, 1, 9, 9]), annotation(0, 7, [2, 2, 9, 9])]
    listing = coco(tmp_path, document([*boxes, annotation(0, 7, [2, 2, 9, 9])], images=1))
    assert [entry.file for entry in listing.entries] == ["boards/0.png#xywh=2,2,9,9"]
    assert listing.skipped == (
        Skipped("boards/0.png#xywh=1,1,9,9", "named 2 times with different labels: scratch / hole"),
        Skipped("boards/0.png#xywh=2,2,9,9", "named 2 times, used once"),
    )


def test_boxes_of_another_size_of_the_picture_are_refused(tmp_path: Path) -> None:
    content = document([annotation(0, 1, [1, 1, 9, 9]), annotation(1, 7, [1, 1, 9, 9])])
    content["images"][0]["width"] = 2 * WIDTH
    first, second = coco(tmp_path, content).entries
    with pytest.raises(InvalidInputError, match="the picture is 60x40, its boxes are of 120x40"):
        first.read().decode()
    assert second.read().decode().shape == (9, 9, 3)


def test_boxes_count_in_the_upright_picture(tmp_path: Path) -> None:
    content = document([annotation(0, 1, [30, 20, 30, 20]), annotation(1, 7, [1, 1, 9, 9])])
    coco(tmp_path, content)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(board(0)).copy()).save(tmp_path / "boards" / "0.png", exif=exif)
    entry = list_coco(tmp_path / "coco.json", content).entries[0]
    assert np.array_equal(entry.read().decode(), board(0)[20:, 30:])


def test_without_a_size_boxes_end_where_the_picture_does(tmp_path: Path) -> None:
    boxes = [annotation(0, 1, [50, 30, 100, 100]), annotation(0, 7, [1, 1, 9, 9]), annotation(0, 7, [90, 1, 9, 9])]
    first, _, outside = coco(tmp_path, document(boxes, sized=False)).entries
    assert np.array_equal(first.read().decode(), board(0)[30:, 50:])
    with pytest.raises(InvalidInputError, match="outside of the picture"):
        outside.read().decode()


def test_a_picture_is_read_once_for_all_its_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = [annotation(image, 1 + 6 * (box % 2), [box, 1, 9, 9]) for image in range(3) for box in range(12)]
    listing = coco(tmp_path, document(boxes))
    decoded: list[Path] = []
    lock = threading.Lock()
    decode = files.decode_file

    def counting(path: Path, digest: str) -> Pixels:
        with lock:
            decoded.append(path)
        return decode(path, digest)

    monkeypatch.setattr(crops, "decode_file", counting)
    contents = [entry.read() for entry in listing.entries]
    with ThreadPoolExecutor(reading.THREADS) as pool:
        pixels = list(pool.map(lambda content: content.decode(), contents))
    assert len(decoded) == 3
    for place, own in enumerate(pixels):
        image, box = divmod(place, 12)
        assert np.array_equal(own, board(image)[1:10, box : box + 9])


def test_few_whole_pictures_are_held(tmp_path: Path) -> None:
    sheets = []
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(encoded(number))
        part = Part(f"{number}.png", tmp_path / f"{number}.png", Box(0, 0, 9, 9), ("x",))
        sheets.append(part)
    entries = [entry for entry in list_parts(sheets, 0) if not isinstance(entry, Skipped)]
    held = []
    for entry in entries:
        entry.read().decode()
        held.append(sum(each.read.__self__.sheet._pixels is not None for each in entries))  # type: ignore[attr-defined]
    assert max(held) == crops.KEPT


def test_a_picture_that_changed_is_not_cut(tmp_path: Path) -> None:
    entry = coco(tmp_path, document([annotation(0, 1, [1, 1, 9, 9]), annotation(1, 7, [1, 1, 9, 9])])).entries[0]
    content = entry.read()
    (tmp_path / "boards" / "0.png").write_bytes(encoded(5))
    with pytest.raises(InvalidInputError, match="changed"):
        content.decode()


def test_without_boxes_the_whole_picture_has_the_category(tmp_path: Path) -> None:
    listing = coco(tmp_path, document([annotation(0, 1), annotation(1, 7, [])]))
    assert (listing.kind, listing.labels) == ("single_label", ("hole", "scratch"))
    assert [(entry.file, entry.labels, entry.group) for entry in listing.entries] == [
        ("boards/0.png", ("scratch",), ""), ("boards/1.png", ("hole",), ""),
    ]  # fmt: skip
    assert np.array_equal(listing.entries[0].read().decode(), board(0))
    assert listing.skipped == (Skipped("boards/2.png", "no annotation"),)


def test_several_categories_of_a_picture_are_several_labels(tmp_path: Path) -> None:
    listing = coco(tmp_path, document([annotation(0, 1), annotation(0, 7), annotation(0, 7), annotation(1, 7)]))
    assert listing.kind == "multi_label"
    assert [entry.labels for entry in listing.entries] == [("scratch", "hole"), ("hole",), ()]


@pytest.mark.parametrize("where", ["annotations", "."])
def test_where_the_pictures_may_lie(tmp_path: Path, where: str) -> None:
    content = document([annotation(0, 1, [1, 1, 9, 9]), annotation(1, 7, [1, 1, 9, 9])])
    for image in content["images"]:
        image["file_name"] = image["file_name"].removeprefix("boards/")
    coco(tmp_path, content)
    (tmp_path / where).mkdir(exist_ok=True)
    listing = list_coco(tmp_path / where / "instances.json", content)
    assert listing.folder.resolve() == tmp_path.resolve()
    assert [entry.group for entry in listing.entries] == ["boards/0.png", "boards/1.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 5}, "not COCO"),
        ({"images": [{"id": 0}]}, "not COCO"),
        ({"annotations": [{"image_id": 0}]}, "not COCO"),
        ({"annotations": []}, "none of the 3 it names can be used; the first, boards/0.png: no annotation"),
        ({"images": []}, "none of the 1 it names can be used"),
        ({"images": [], "annotations": []}, "it names no pictures"),
    ],
)
def test_documents_that_can_not_be_used(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = {**document([annotation(0, 1, [1, 1, 9, 9])]), **change}
    with pytest.raises(InvalidInputError, match=message) as caught:
        coco(tmp_path, content)
    assert caught.value.field == "data"
    assert caught.value.fix


def test_its_keys_tell_it() -> None:
    assert is_coco(document([]))
    assert not is_coco({"images": []})
    assert not is_coco([document([])])


def test_crops_are_read_like_pictures(tmp_path: Path) -> None:
    boxes = [annotation(image, 1 + 6 * (box % 2), [3 * box, 1, 9, 9]) for image in range(3) for box in range(4)]
    listing = coco(tmp_path, document(boxes))
    preprocessing = random_backbone("test_vit").preprocessing
    dataset = reading.read(listing, preprocessing, tmp_path / "cache", NoProgress())
    assert len(dataset.pictures) == 12
    assert {picture.group for picture in dataset.pictures} == {f"boards/{image}.png" for image in range(3)}
    assert {(picture.facts.width, picture.facts.height) for picture in dataset.pictures} == {(9, 9)}
    assert np.array_equal(dataset.original("boards/1.png#xywh=3,1,9,9"), board(1)[1:10, 3:12])
