"""Data sets that `datasets` saved: columns found by their features, splits joined, nothing downloaded."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from factories import random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.pictures import Pixels
from lensmount_training.data import Listing, Skipped, reading
from lensmount_training.data.arrow import is_arrow, list_arrow
from lensmount_training.progress import NoProgress
from stills import encoded

datasets = pytest.importorskip("datasets")
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value  # noqa: E402

CLASSES = ClassLabel(names=["hole", "ok", "unused"])


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No bars of the library's; no network either: an address would be asked for in vain."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def board(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def pictures(count: int, first: int = 0) -> list[Pillow.Image]:
    return [Pillow.fromarray(board(first + place)) for place in range(count)]


def saved(folder: Path, columns: dict[str, Any], features: dict[str, Any]) -> Listing:
    Dataset.from_dict(columns, features=Features(features)).save_to_disk(folder / "set")
    return list_arrow(folder / "set")


def test_one_label_a_row(tmp_path: Path) -> None:
    listing = saved(tmp_path, {"image": pictures(4), "label": [0, 1, -1, None]}, {"image": Image(), "label": CLASSES})
    assert is_arrow(tmp_path / "set")
    assert (listing.form, listing.kind, listing.labels) == ("arrow", "single_label", ("hole", "ok"))
    assert [(entry.file, entry.labels) for entry in listing.entries] == [("0", ("hole",)), ("1", ("ok",))]
    assert np.array_equal(listing.entries[1].read().decode(), board(1))
    assert listing.skipped == (Skipped("2", "no label"), Skipped("3", "no label"))


def test_splits_are_joined_and_are_no_groups(tmp_path: Path) -> None:
    features = Features({"image": Image(), "label": CLASSES})
    train = Dataset.from_dict({"image": pictures(2), "label": [0, 1]}, features=features)
    test = Dataset.from_dict({"image": pictures(3, 10), "label": [1, 0, 1]}, features=features)
    DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "set")
    assert is_arrow(tmp_path / "set")
    listing = list_arrow(tmp_path / "set")
    assert [entry.file for entry in listing.entries] == ["train/0", "train/1", "test/0", "test/1", "test/2"]
    assert {(entry.group, entry.source) for entry in listing.entries} == {("", "")}
    assert np.array_equal(listing.entries[3].read().decode(), board(11))


@pytest.mark.parametrize("inner", [CLASSES, Value("string")])
def test_several_labels_a_row(tmp_path: Path, inner: Any) -> None:
    labels: list[Any] = [[0, 1], [], [1], None]
    if inner is not CLASSES:
        labels = [own if own is None else [CLASSES.names[each] for each in own] for own in labels]
    listing = saved(tmp_path, {"image": pictures(4), "labels": labels}, {"image": Image(), "labels": List(inner)})
    assert listing.kind == "multi_label"
    assert [entry.labels for entry in listing.entries] == [("hole", "ok"), (), ("ok",)]
    assert [skip.reason for skip in listing.skipped] == ["no label"]


@pytest.mark.parametrize(
    ("feature", "cells", "labels"),
    [
        (Value("string"), ["hole", " ok", ""], ("hole", "ok")),
        (Value("int64"), [3, 12, None], ("12", "3")),
        (Value("bool"), [True, False, None], ("False", "True")),
    ],
)
def test_labels_that_are_words_or_numbers(
    tmp_path: Path, feature: Any, cells: list[Any], labels: tuple[str, ...]
) -> None:
    listing = saved(tmp_path, {"image": pictures(3), "label": cells}, {"image": Image(), "label": feature})
    assert listing.labels == labels
    assert len(listing.entries) == 2


def test_groups_and_sources(tmp_path: Path) -> None:
    columns = {"image": pictures(3), "label": [0, 1, 1], "group": ["a", None, "b"], "camera": [1, 2, None]}
    features = {"image": Image(), "label": CLASSES, "group": Value("string"), "camera": Value("int32")}
    entries = saved(tmp_path, columns, features).entries
    assert [(entry.group, entry.source) for entry in entries] == [("a", "1"), ("", "2"), ("b", "")]


@pytest.mark.parametrize(
    ("features", "image", "label"),
    [
        ({"pixel_values": Image(), "path": Value("string"), "kind": CLASSES}, "pixel_values", "kind"),
        ({"img": Image(), "mask": Image(), "label": CLASSES}, "img", "label"),
        ({"image": Image(), "label": Value("string"), "camera": CLASSES}, "image", "label"),
        ({"bytes": Value("binary"), "class": CLASSES}, "bytes", "class"),
    ],
)
def test_columns_by_feature_and_name(tmp_path: Path, features: dict[str, Any], image: str, label: str) -> None:
    made = {"Image": pictures(2), "ClassLabel": [0, 1], "string": ["x", "y"], "binary": [encoded(0), encoded(1)]}
    columns = {
        name: made[feature.dtype if isinstance(feature, Value) else type(feature).__name__]
        for name, feature in features.items()
    }
    columns[label] = ["hole", "ok"] if isinstance(features[label], Value) else [0, 1]
    columns[image] = pictures(2) if isinstance(features[image], Image) else made["binary"]
    listing = saved(tmp_path, columns, features)
    assert listing.labels == ("hole", "ok")
    assert listing.entries[0].read().decode().shape == (24, 32, 3)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"a": Image(), "b": Image(), "label": CLASSES}, "no column that is clearly the image"),
        ({"text": Value("string"), "label": CLASSES}, "no column that is clearly the image"),
        ({"image": Image(), "fine": CLASSES, "coarse": CLASSES}, "no column that is clearly the label"),
        ({"image": Image(), "note": Value("string")}, "no column that is clearly the label"),
    ],
)
def test_columns_that_are_not_clear(tmp_path: Path, features: dict[str, Any], message: str) -> None:
    cells = {"Image": pictures(2), "ClassLabel": [0, 1], "Value": ["x", "y"]}
    with pytest.raises(InvalidInputError, match=message) as caught:
        saved(tmp_path, {name: cells[type(feature).__name__] for name, feature in features.items()}, features)
    assert caught.value.field == "data"
    assert caught.value.fix


def test_pictures_by_path_keep_their_names(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(encoded(number))
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    listing = saved(tmp_path, {"path": paths, "label": [0, 1]}, {"path": Value("string"), "label": CLASSES})
    assert [entry.file for entry in listing.entries] == ["0.png", "1.png"]
    contents = [entry.read() for entry in listing.entries]
    (tmp_path / "0.png").write_bytes(encoded(9))
    with pytest.raises(InvalidInputError, match="changed"):
        contents[0].decode()
    (tmp_path / "1.png").unlink()
    with pytest.raises(FileNotFoundError):
        listing.entries[1].read()


def test_embedded_files_keep_their_names_where_each_has_its_own(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            (tmp_path / folder / f"{folder if number else 'x'}{number}.png").write_bytes(encoded(number))
    paths = sorted(str(path) for path in tmp_path.rglob("*.png"))
    features = {"image": Image(), "label": CLASSES}
    listing = saved(tmp_path, {"image": paths[:2], "label": [0, 1]}, features)
    assert [entry.file for entry in listing.entries] == ["a1.png", "x0.png"]
    (tmp_path / "more").mkdir()
    listing = saved(tmp_path / "more", {"image": paths, "label": [0, 1, 0, 1]}, features)
    assert [entry.file for entry in listing.entries] == ["0-a1.png", "1-x0.png", "2-b1.png", "3-x0.png"]


def test_pictures_that_can_not_be_used_are_left_to_reading(tmp_path: Path) -> None:
    cells: list[Any] = [{"bytes": encoded(place)} for place in range(12)]
    cells[3], cells[4] = {"bytes": b"no picture"}, None
    listing = saved(tmp_path, {"image": cells, "label": [0, 1] * 6}, {"image": Image(decode=False), "label": CLASSES})
    preprocessing = random_backbone("test_vit").preprocessing
    dataset = reading.read(listing, preprocessing, tmp_path / "cache", NoProgress())
    reasons = {skip.file.partition("-")[0]: skip.reason.partition(":")[0] for skip in dataset.skipped}
    assert reasons == {"3": "the data is not a picture", "4": "no picture in the row"}
    assert len(dataset.pictures) == 10


def test_a_data_set_with_many_shards_and_an_order_of_its_own(tmp_path: Path) -> None:
    features = Features({"image": Image(), "label": CLASSES})
    rows = Dataset.from_dict({"image": pictures(12), "label": [0, 1] * 6}, features=features)
    rows.select(list(reversed(range(12)))).save_to_disk(tmp_path / "set", num_shards=5)
    entries = list_arrow(tmp_path / "set").entries
    for place in (0, 5, 11):
        assert np.array_equal(entries[place].read().decode(), board(11 - place))
        assert entries[place].labels == (("ok", "hole")[place % 2],)


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"xxxxxxxxxxxx"])
def test_damaged_folders_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    saved(tmp_path, {"image": pictures(2), "label": [0, 1]}, {"image": Image(), "label": CLASSES})
    assert (tmp_path / "set" / name).is_file()
    (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(InvalidInputError) as caught:
        list_arrow(tmp_path / "set")
    assert caught.value.field == "data"
    assert caught.value.fix


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        saved(tmp_path, {"image": [], "label": []}, {"image": Image(), "label": CLASSES})
    DatasetDict({}).save_to_disk(tmp_path / "empty")
    with pytest.raises(InvalidInputError, match="no rows"):
        list_arrow(tmp_path / "empty")


def test_an_address_is_not_asked(tmp_path: Path) -> None:
    paths = ["hf://datasets/somebody/some@main/1.png", "https://127.0.0.1:9/2.png"]
    listing = saved(tmp_path, {"path": paths, "label": [0, 1]}, {"path": Value("string"), "label": CLASSES})
    for entry in listing.entries:
        with pytest.raises(FileNotFoundError):
            entry.read()


def test_without_datasets_the_fix_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *others: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *others)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InvalidInputError, match="needs datasets") as caught:
        list_arrow(tmp_path)
    assert "pip install" in caught.value.fix


def test_the_library_is_imported_only_when_it_is_needed() -> None:
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    code = (
        "import sys, lensmount_training.data.formats; sys.exit('datasets' in sys.modules or 'pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
