"""Label Studio's export: choices, rectangles in per cent, names of uploads, and annotators who disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lensmount.errors import InvalidInputError
from lensmount_adapters.pictures import Pixels
from lensmount_training.data import Listing, Skipped
from lensmount_training.data.label_studio import is_label_studio, list_label_studio


def board(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def choice(*words: str) -> dict[str, Any]:
    return {"type": "choices", "from_name": "c", "to_name": "image", "value": {"choices": list(words)}}


def rectangle(x: float, y: float, width: float, height: float, *words: str, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": list(words), **more}
    size = {"original_width": 60, "original_height": 40, "image_rotation": 0}
    return {"type": "rectanglelabels", "from_name": "r", "to_name": "image", "value": value, **size}


def annotation(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": 1, "completed_by": 3, "was_cancelled": False, "ground_truth": False, "result": list(results), **more}


def task(image: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"id": 12, "data": {"image": image}, "predictions": [], "annotations": list(annotations)}


def export(folder: Path, tasks: list[dict[str, Any]], margin: float = 0.0) -> Listing:
    for number in range(6):
        Image.fromarray(board(number)).save(folder / f"{number}.png")
    (folder / "export.json").write_text(json.dumps(tasks))
    return list_label_studio(folder / "export.json", tasks, margin)


def found(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {entry.file: entry.labels for entry in listing.entries}


def test_one_choice(tmp_path: Path) -> None:
    listing = export(tmp_path, [task("0.png", annotation(choice("ok"))), task("1.png", annotation(choice("hole")))])
    assert (listing.form, listing.kind, listing.labels) == ("label-studio", "single_label", ("hole", "ok"))
    assert found(listing) == {"0.png": ("ok",), "1.png": ("hole",)}
    assert np.array_equal(listing.entries[0].read().decode(), board(0))
    assert listing.skipped == ()


def test_several_choices_and_none(tmp_path: Path) -> None:
    tasks = [
        task("0.png", annotation(choice("a", "b"))),
        task("1.png", annotation(choice("b"))),
        task("2.png", annotation()),
        task("3.png", annotation(choice("a"), choice("b"))),
    ]
    listing = export(tmp_path, tasks)
    assert listing.kind == "multi_label"
    assert found(listing) == {"0.png": ("a", "b"), "1.png": ("b",), "2.png": (), "3.png": ("a", "b")}


def test_rectangles_in_per_cent_of_the_picture(tmp_path: Path) -> None:
    tasks = [
        task("0.png", annotation(rectangle(25, 50, 50, 25, "hole"), rectangle(0, 0, 100, 100, "ok"))),
        task("1.png", annotation(rectangle(50, 50, 50, 50, "ok"))),
    ]
    listing = export(tmp_path, tasks)
    assert (listing.kind, listing.labels) == ("single_label", ("hole", "ok"))
    assert [(entry.file, entry.group) for entry in listing.entries] == [
        ("0.png#xywh=15,20,30,10", "0.png"), ("0.png#xywh=0,0,60,40", "0.png"), ("1.png#xywh=30,20,30,20", "1.png"),
    ]  # fmt: skip
    assert np.array_equal(listing.entries[0].read().decode(), board(0)[20:30, 15:45])
    wider = export(tmp_path, tasks, margin=0.1)
    assert wider.entries[0].file == "0.png#xywh=12,19,36,12"


def test_several_labels_of_a_rectangle(tmp_path: Path) -> None:
    results = [rectangle(25, 50, 50, 25, "hole", "old"), rectangle(0, 0, 50, 50, "ok")]
    listing = export(tmp_path, [task("0.png", annotation(*results))])
    assert listing.kind == "multi_label"
    assert [entry.labels for entry in listing.entries] == [("hole", "old"), ("ok",)]


def test_rectangles_that_can_not_be_used(tmp_path: Path) -> None:
    unsized = rectangle(1, 1, 50, 50, "ok")
    del unsized["original_width"]
    results = [
        rectangle(25, 50, 50, 25, "hole"),
        rectangle(25, 50, 50, 25, "hole", rotation=30),
        rectangle(25, 50, 50, 25),
        rectangle(25, 50, 0, 25, "ok"),
        rectangle(120, 50, 10, 25, "ok"),
        unsized,
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
        {"type": "polygonlabels", "value": {"points": [[1, 2]], "polygonlabels": ["ok"]}},
    ]
    tasks = [task("0.png", annotation(*results)), task("1.png", annotation(choice("ok")))]
    listing = export(tmp_path, tasks)
    assert [entry.file for entry in listing.entries] == ["0.png#xywh=15,20,30,10"]
    assert [(skip.file, skip.reason) for skip in listing.skipped] == [
        ("0.png", "a turned rectangle"),
        ("0.png", "a rectangle without a label"),
        ("0.png 15,20,0,10", "a box of less than a pixel"),
        ("0.png 72,20,6,10", "a box outside of the picture"),
        ("0.png", "a rectangle without the size of its picture"),
        ("1.png", "no rectangle in it"),
    ]


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("/data/upload/3/0a1b2c3d-part.png", "part.png"),
        ("/data/upload/3/0a1b2c3d-part.png", "0a1b2c3d-part.png"),
        ("/data/upload/3/0a1b2c3d-part.png", "line 1/deep/part.png"),
        ("/data/upload/3/0a1b2c3d-part.png", "upload/3/0a1b2c3d-part.png"),
        ("/data/local-files/?d=line%201/part.png", "line 1/part.png"),
        ("/data/local-files/?d=mnt/c/line%201/part.png", "line 1/part.png"),
        ("/data/local-files/?d=C:%5Cpictures%5Cpart.png", "part.png"),
        ("s3://bucket/prefix/line%201/part.png", "line 1/part.png"),
        ("http://localhost:8080/data/upload/3/0a1b2c3d-part.png?x=1", "part.png"),
        ("part.png", "part.png"),
        ("/data/upload/3/0a1b2c3d-teil-gr%C3%B6%C3%9Fer.png", "teil-größer.png"),
    ],
)
def test_names_of_files(tmp_path: Path, address: str, file: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(board(9)).save(tmp_path / file)
    tasks = [task(address, annotation(choice("ok"))), task("1.png", annotation(choice("hole")))]
    assert found(export(tmp_path, tasks)) == {file: ("ok",), "1.png": ("hole",)}


def test_a_name_that_fits_several_files_is_not_guessed(tmp_path: Path) -> None:
    for folder in ("left", "right"):
        (tmp_path / folder / "a").mkdir(parents=True)
        Image.fromarray(board(9)).save(tmp_path / folder / "a" / "part.png")
    tasks = [
        task("/data/upload/3/0a1b2c3d-part.png", annotation(choice("ok"))),
        task("s3://bucket/right/part.png", annotation(choice("ok"))),
        task("s3://bucket/right/a/part.png", annotation(choice("ok"))),
        task("1.png", annotation(choice("hole"))),
    ]
    listing = export(tmp_path, tasks)
    assert set(found(listing)) == {"right/a/part.png", "1.png"}
    assert [skip.reason for skip in listing.skipped] == ["2 files below the folder are called so"] * 2


def test_names_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(board(9)).save(tmp_path / "secret.png")
    tasks = [
        task("/data/local-files/?d=../secret.png", annotation(choice("ok"))),
        task("1.png", annotation(choice("hole"))),
        task("2.png", annotation(choice("ok"))),
    ]
    listing = export(tmp_path / "in", tasks)
    assert set(found(listing)) == {"1.png", "2.png"}
    assert listing.skipped == (Skipped("/data/local-files/?d=../secret.png", "no such file"),)


def test_the_picture_is_found_among_the_data_of_a_task(tmp_path: Path) -> None:
    first = task("0.png", annotation(choice("ok")))
    first["data"] = {"number": 7, "text": "//[ some text", "photo": "/data/upload/1/0a1b2c3d-0.png", "meta": {"a": 1}}
    assert set(found(export(tmp_path, [first, task("1.png", annotation(choice("hole")))]))) == {"0.png", "1.png"}


def test_what_is_not_annotated_is_skipped_with_a_reason(tmp_path: Path) -> None:
    nothing = task("3.png", annotation(choice("ok")))
    nothing["data"] = {"number": 3}
    tasks = [
        task("0.png", annotation(choice("ok"))),
        task("1.png", annotation(choice("hole"))),
        task("2.png"),
        task("3.png", annotation(choice("ok"), was_cancelled=True)),
        task("4.png", annotation()),
        task("lost.png", annotation(choice("ok"))),
        nothing,
    ]
    listing = export(tmp_path, tasks)
    assert set(found(listing)) == {"0.png", "1.png"}
    assert [(skip.file, skip.reason) for skip in listing.skipped] == [
        ("2.png", "not annotated"),
        ("3.png", "cancelled"),
        ("4.png", "annotated without a choice"),
        ("lost.png", "no such file"),
        ("task 12", "no picture is named"),
    ]


def test_annotators_who_disagree_are_not_averaged(tmp_path: Path) -> None:
    tasks = [
        task("0.png", annotation(choice("ok")), annotation(choice("hole"))),
        task("1.png", annotation(choice("hole")), annotation(choice("hole"))),
        task("2.png", annotation(choice("hole")), annotation(choice("ok"), was_cancelled=True)),
        task("3.png", annotation(choice("hole")), annotation(choice("ok"), ground_truth=True)),
        task("4.png", annotation(choice("ok")), annotation()),
    ]
    listing = export(tmp_path, tasks)
    assert found(listing) == {"1.png": ("hole",), "2.png": ("hole",), "3.png": ("ok",)}
    assert listing.skipped == (
        Skipped("0.png", "2 annotators disagree: hole / ok"),
        Skipped("4.png", "2 annotators disagree: nothing / ok"),
    )


def test_annotators_agree_in_any_order(tmp_path: Path) -> None:
    boxes = [rectangle(25, 50, 50, 25, "hole"), rectangle(0, 0, 50, 50, "ok")]
    moved = [rectangle(25, 51, 50, 25, "hole"), boxes[1]]
    tasks = [
        task("0.png", annotation(*boxes), annotation(*reversed(boxes))),
        task("1.png", annotation(*boxes), annotation(*moved)),
    ]
    listing = export(tmp_path, tasks)
    assert {entry.group for entry in listing.entries} == {"0.png"}
    assert listing.skipped == (Skipped("1.png", "2 annotators disagree about the places of their rectangles"),)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([{"data": 5, "annotations": []}], "not an export of Label Studio"),
        ([task("0.png", {"result": [{"type": "choices", "value": {"choices": "ok"}}]})], "not an export"),
        ([task("0.png")], "no choices and no labelled rectangles"),
        ([task("0.png", annotation({"type": "textarea", "value": {"text": ["x"]}}))], "no choices and no labelled"),
        ([task("lost.png", annotation(choice("ok")))], "none of the 1 it names can be used"),
    ],
)
def test_exports_that_can_not_be_used(tmp_path: Path, tasks: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        export(tmp_path, tasks)
    assert caught.value.field == "data"
    assert caught.value.fix


def test_its_keys_tell_it() -> None:
    assert is_label_studio([task("0.png")])
    assert not is_label_studio([])
    assert not is_label_studio([{"image": "0.png", "choice": "ok"}])
    assert not is_label_studio({"data": 1, "annotations": []})
