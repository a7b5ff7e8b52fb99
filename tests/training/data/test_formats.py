"""What lies at a path is found out and said, never guessed; options that can not work are refused before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lensmount.errors import InvalidInputError
from lensmount_training.data import Listing
from lensmount_training.data.detection import LAYOUTS
from lensmount_training.data.formats import ListingOptions, list_pictures
from stills import encoded, fill
from videos import write_clip

TABLE = "file,label\nok/0.png,ok\nhole/0.png,hole\n"


def pictures(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(4):
        (root / f"{number}.png").write_bytes(encoded(number))
    return root


def class_folders(root: Path) -> Path:
    fill(root / "ok", 3)
    fill(root / "hole", 2, seed=50)
    return root


def whole_table(root: Path) -> str:
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    return "file,label\n" + "".join(f"{name},{name.partition('/')[0]}\n" for name in names)


def table(root: Path) -> Path:
    (pictures(root) / "labels.csv").write_text("file,label\n0.png,ok\n1.png,hole\n2.png,ok\n")
    return root


def tsv(root: Path) -> Path:
    (pictures(root) / "labels.TSV").write_text("file\tlabel\n0.png\tok\n1.png\thole\n")
    return root


def coco(root: Path) -> Path:
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(2)],
        "annotations": [{"image_id": number, "category_id": number, "bbox": [1, 1, 9, 9]} for number in range(2)],
        "categories": [{"id": 0, "name": "ok"}, {"id": 1, "name": "hole"}],
    }
    (pictures(root) / "coco.json").write_text(json.dumps(content))
    return root


def label_studio(root: Path) -> Path:
    tasks = [
        {
            "data": {"image": f"{number}.png"},
            "annotations": [{"result": [{"type": "choices", "value": {"choices": [("ok", "hole")[number]]}}]}],
        }
        for number in range(2)
    ]
    (pictures(root) / "export.json").write_text(json.dumps(tasks))
    return root


def clips(root: Path) -> Path:
    root.mkdir()
    write_clip(root / "line.mp4", 100)
    (root / "times.csv").write_text("video,start,end,label\nline.mp4,0,1,ok\nline.mp4,1,2,hole\n")
    return root


def clips_json(root: Path) -> Path:
    root.mkdir()
    write_clip(root / "line.mp4", 100)
    items = [{"video": "line.mp4", "start": number, "end": number + 1, "label": "ab"[number]} for number in range(2)]
    (root / "times.json").write_text(json.dumps(items))
    return root


def arrow(root: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["hole", "ok"])})
    rows = {"image": [{"bytes": encoded(number), "path": None} for number in range(2)], "label": [0, 1]}
    split = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(root)
    return root


def one_class(root: Path) -> Path:
    shutil.rmtree(class_folders(root) / "hole")
    return root


def one_class_table(root: Path) -> Path:
    (pictures(root) / "labels.csv").write_text("file,label\n0.png,ok\n1.png,ok\n")
    return root


@pytest.mark.parametrize("make", [one_class, one_class_table])
def test_one_class_can_be_judged_by_and_not_trained_on(make: Callable[[Path], Path], tmp_path: Path) -> None:
    data = make(tmp_path / "data")
    with pytest.raises(InvalidInputError, match="one class only") as caught:
        list_pictures(data)
    assert (caught.value.field, caught.value.value) == ("data", "ok")
    assert list_pictures(data, several=False).labels == ("ok",)


FOLDERS: list[tuple[Callable[[Path], Path], str]] = [
    (class_folders, "imagefolder"),
    (table, "table"),
    (tsv, "table"),
    (coco, "coco"),
    (label_studio, "label-studio"),
    (clips, "clips"),
    (clips_json, "clips"),
    (arrow, "arrow"),
]


@pytest.mark.parametrize(("make", "form"), FOLDERS)
def test_a_folder_of_each_format(tmp_path: Path, make: Callable[[Path], Path], form: str) -> None:
    listing = list_pictures(make(tmp_path / "data"))
    assert listing.form == form
    assert len(listing.labels) == 2
    assert "is read as" in listing.notes[0]
    assert f"{len(listing.entries)} pictures, 2 classes" in listing.notes[0]
    for entry in listing.entries:
        assert entry.read().decode().ndim == 3
    again = list_pictures(tmp_path / "data", ListingOptions(format=form))
    assert [entry.file for entry in again.entries] == [entry.file for entry in listing.entries]


@pytest.mark.parametrize(("make", "form"), FOLDERS[1:-1])
def test_the_index_itself(tmp_path: Path, make: Callable[[Path], Path], form: str) -> None:
    whole = list_pictures(make(tmp_path / "data"))
    (path,) = [each for each in (tmp_path / "data").iterdir() if each.suffix.lower() in (".csv", ".tsv", ".json")]
    for options in (None, ListingOptions(format=form)):
        listing = list_pictures(path, options)
        assert listing.form == form
        assert [entry.file for entry in listing.entries] == [entry.file for entry in whole.entries]


def test_several_labels_are_said(tmp_path: Path) -> None:
    (pictures(tmp_path) / "labels.csv").write_text("file,labels\n0.png,a;b\n1.png,\n")
    assert "2 labels, any number a picture" in list_pictures(tmp_path).notes[0]


def test_other_files_beside_an_index_do_no_harm(tmp_path: Path) -> None:
    table(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "settings.json").write_text('{"a": 1}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "figures.csv").write_text("epoch,loss\n1,2\n")
    (tmp_path / "damaged.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / ".hidden.csv").write_text(TABLE)
    assert list_pictures(tmp_path).form == "table"


def test_files_beside_class_folders_do_no_harm(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "figures.csv").write_text("epoch,loss\n1,2\n")
    (tmp_path / "settings.json").write_text('{"a": 1}')
    assert list_pictures(tmp_path).form == "imagefolder"


def test_a_table_that_says_what_the_folders_say(tmp_path: Path) -> None:
    text = whole_table(class_folders(tmp_path))
    (tmp_path / "split.csv").write_text(text)
    assert list_pictures(tmp_path).form == "imagefolder"
    lines = text.splitlines()
    (tmp_path / "split.csv").write_text("\n".join([f"{lines[0]},group", *(f"{line},g" for line in lines[1:])]))
    assert list_pictures(tmp_path).form == "table", "it knows the groups"


@pytest.mark.parametrize("change", ["other label", "fewer rows", "nothing there"])
def test_a_table_that_contradicts_the_folders_is_asked_about(tmp_path: Path, change: str) -> None:
    lines = whole_table(class_folders(tmp_path)).splitlines()
    if change == "other label":
        lines[1] = lines[1].replace(",hole", ",ok")
    elif change == "fewer rows":
        del lines[1]
    else:
        lines[1:] = ["gone.png,ok", "lost.png,hole"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    with pytest.raises(InvalidInputError, match="do not give the same pictures and labels") as caught:
        list_pictures(tmp_path)
    assert "--format" in caught.value.fix
    assert len(list_pictures(tmp_path, ListingOptions(format="imagefolder")).entries) == 5
    if change != "nothing there":
        assert list_pictures(tmp_path, ListingOptions(format="table")).form == "table"


@pytest.mark.parametrize("folders", [("train", "test"), ("Train", "val", "test"), ("images",)])
def test_a_table_of_pictures_in_folders_that_are_no_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for number, folder in enumerate(folders):
        fill(tmp_path / folder, 2, seed=10 * number)
    name = folders[0]
    (tmp_path / "labels.csv").write_text(f"file,label\n{name}/0.png,ok\n{name}/1.png,hole\n")
    assert list_pictures(tmp_path).form == "table"


def test_coco_of_pictures_in_folders(tmp_path: Path) -> None:
    coco(tmp_path)
    class_folders(tmp_path)
    assert list_pictures(tmp_path).form == "coco"


def test_two_indices_are_asked_about(tmp_path: Path) -> None:
    coco(table(tmp_path))
    with pytest.raises(InvalidInputError, match=r"coco\.json, labels\.csv") as caught:
        list_pictures(tmp_path)
    assert caught.value.field == "data"
    assert list_pictures(tmp_path, ListingOptions(format="coco")).form == "coco"
    assert list_pictures(tmp_path, ListingOptions(format="table")).form == "table"
    assert list_pictures(tmp_path / "labels.csv").form == "table"
    (tmp_path / "other.csv").write_text(TABLE)
    with pytest.raises(InvalidInputError, match=r"labels\.csv, other\.csv"):
        list_pictures(tmp_path, ListingOptions(format="table"))


def test_parts_are_not_taken_for_classes(tmp_path: Path) -> None:
    for number, part in enumerate(("train", "test")):
        class_folders(tmp_path / part)
        fill(tmp_path / part / "ok", 1, seed=number)
    with pytest.raises(InvalidInputError, match="parts of a data set, not classes: test, train"):
        list_pictures(tmp_path)
    assert list_pictures(tmp_path, ListingOptions(format="imagefolder")).labels == ("test", "train")
    assert list_pictures(tmp_path / "train").labels == ("hole", "ok")


def empty(root: Path) -> Path:
    root.mkdir()
    return root


def flat(root: Path) -> Path:
    return pictures(root)


def a_picture(root: Path) -> Path:
    return pictures(root) / "0.png"


def other_json(root: Path) -> Path:
    root.mkdir()
    (root / "a.json").write_text('[{"image": "0.png", "choice": "ok"}]')
    return root / "a.json"


def other_csv(root: Path) -> Path:
    root.mkdir()
    (root / "a.csv").write_text("epoch,loss\n1,2\n")
    return root / "a.csv"


def nothing(root: Path) -> Path:
    return root / "nothing"


@pytest.mark.parametrize("make", [empty, flat, a_picture, other_json, other_csv, nothing])
def test_what_is_in_no_format_is_answered_with_those_that_are_known(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        list_pictures(make(tmp_path / "data"))
    assert caught.value.field == "data"
    assert all(layout in caught.value.fix for layout in LAYOUTS.values())


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "\xff", '{"a": 1e'])
def test_damaged_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_bytes(content.encode("latin-1"))
    for options in (None, ListingOptions(format="coco")):
        with pytest.raises(InvalidInputError) as caught:
            list_pictures(tmp_path / "a.json", options)
        assert caught.value.field == "data"
        assert caught.value.fix


@pytest.mark.parametrize("form", sorted(LAYOUTS))
def test_a_format_that_is_not_there(tmp_path: Path, form: str) -> None:
    folder = pictures(tmp_path / "data")
    with pytest.raises(InvalidInputError) as caught:
        list_pictures(folder, ListingOptions(format=form))
    assert caught.value.field == "data"
    assert caught.value.fix
    with pytest.raises(InvalidInputError):
        list_pictures(folder / "0.png", ListingOptions(format=form))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "voc"),
        ("format", ""),
        ("group_by", "("),
        ("group_by", "*"),
        ("every", 0.0),
        ("every", float("nan")),
        ("every", float("inf")),
        ("margin", -0.1),
        ("margin", 11.0),
        ("margin", float("nan")),
    ],
)
def test_options_that_can_not_work(field: str, value: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ListingOptions(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field
    assert caught.value.fix


def test_margin_and_step_are_passed_on(tmp_path: Path) -> None:
    assert list_pictures(coco(tmp_path / "a"), ListingOptions(margin=1.0)).entries[0].file.endswith("#xywh=0,0,19,19")
    assert len(list_pictures(clips(tmp_path / "b"), ListingOptions(every=0.25)).entries) == 8


def groups(listing: Listing) -> dict[str, str]:
    return {entry.file: entry.group for entry in listing.entries}


def grouped(tmp_path: Path, how: str | None) -> dict[str, str]:
    for name in ("ok/mon_1.png", "ok/mon_2.png", "ok/a/tue_1.png", "hole/mon_3.png", "hole/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(1))
    return groups(list_pictures(tmp_path, ListingOptions(group_by=how)))


def test_groups_by_what_the_format_says(tmp_path: Path) -> None:
    assert grouped(tmp_path, None) == {
        "hole/mon_3.png": "", "hole/x.png": "", "ok/a/tue_1.png": "ok/a", "ok/mon_1.png": "", "ok/mon_2.png": "",
    }  # fmt: skip


def test_no_groups(tmp_path: Path) -> None:
    assert set(grouped(tmp_path, "none").values()) == {""}


def test_groups_by_folder(tmp_path: Path) -> None:
    assert grouped(tmp_path, "folder") == {
        "hole/mon_3.png": "hole", "hole/x.png": "hole", "ok/a/tue_1.png": "ok/a", "ok/mon_1.png": "ok",
        "ok/mon_2.png": "ok",
    }  # fmt: skip


@pytest.mark.parametrize("pattern", [r"([a-z]+)_\d", r"[a-z]+(?=_)", r"/([a-z]+)_(\d)"])
def test_groups_by_an_expression(tmp_path: Path, pattern: str) -> None:
    assert grouped(tmp_path, pattern) == {
        "hole/mon_3.png": "mon", "hole/x.png": "", "ok/a/tue_1.png": "tue", "ok/mon_1.png": "mon",
        "ok/mon_2.png": "mon",
    }  # fmt: skip
    notes = list_pictures(tmp_path, ListingOptions(group_by=pattern)).notes
    assert notes[1].startswith("1 of 5 pictures have no group")


@pytest.mark.parametrize("pattern", ["nowhere", "(x)?y"])
def test_an_expression_that_groups_nothing_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InvalidInputError, match="no picture a group") as caught:
        grouped(tmp_path, pattern)
    assert caught.value.field == "group_by"


def test_crops_may_be_parted_where_the_person_says_so(tmp_path: Path) -> None:
    coco(tmp_path)
    assert set(groups(list_pictures(tmp_path)).values()) == {"0.png", "1.png"}
    assert set(groups(list_pictures(tmp_path, ListingOptions(group_by="none"))).values()) == {""}
