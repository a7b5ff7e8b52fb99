"""What lies in two parts or under two labels is found, and what lies in one is not."""

from __future__ import annotations

import pytest

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_training.audit.duplicates import find_duplicates
from lensmount_training.audit.leakage import Leak, find_leakage
from lensmount_training.context import Context
from lensmount_training.data.dataset import Dataset
from planted import clean, jpeg, opened, save, surface


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone, context: Context) -> Dataset:
    """A near-duplicate and a copy under another label, a near-duplicate under its own, and a group."""
    folder = clean(tmp_path_factory.mktemp("leaky") / "parts", 6)
    save(folder / "brick" / "like-000.png", jpeg(surface("brick", 0)))
    save(folder / "grass" / "like-brick-001.png", jpeg(surface("brick", 1)))
    (folder / "gravel" / "zz-copy.png").write_bytes((folder / "brick" / "002.png").read_bytes())
    for number in (10, 11):
        save(folder / "gravel" / "monday" / f"{number}.png", surface("gravel", number))
    return opened(folder, backbone, context)


def files(dataset: Dataset) -> list[str]:
    return [picture.file for picture in dataset.pictures]


def test_under_two_labels(leaky: Dataset, context: Context) -> None:
    found = find_leakage(leaky, find_duplicates(leaky, context), None)
    assert found.labels == (
        Leak("near-duplicates", "", ("brick/001.png", "grass/like-brick-001.png"), ("brick", "grass")),
        Leak("copies", "", ("brick/002.png", "gravel/zz-copy.png"), ("brick", "gravel")),
    )
    assert found.parts == ()


def test_in_two_parts(leaky: Dataset, context: Context) -> None:
    test = ["brick/000.png", "gravel/monday/10.png", "gravel/zz-copy.png"]
    split = {"train": [file for file in files(leaky) if file not in test], "test": test}
    found = find_leakage(leaky, find_duplicates(leaky, context), split)
    both = ("test", "train")
    assert set(found.parts) == {
        Leak("near-duplicates", "", ("brick/000.png", "brick/like-000.png"), both),
        Leak("copies", "", ("brick/002.png", "gravel/zz-copy.png"), both),
        Leak("group", "gravel/monday", ("gravel/monday/10.png", "gravel/monday/11.png"), both),
    }


def test_a_split_that_keeps_together_what_belongs_together(leaky: Dataset, context: Context) -> None:
    test = [file for file in files(leaky) if "000" in file or "monday" in file]
    split = {"train": [file for file in files(leaky) if file not in test], "test": test}
    assert find_leakage(leaky, find_duplicates(leaky, context), split).parts == ()


def test_nothing_in_a_clean_folder(clean_data: Dataset, context: Context) -> None:
    split = {"train": files(clean_data)[::2], "test": files(clean_data)[1::2]}
    found = find_leakage(clean_data, find_duplicates(clean_data, context), split)
    assert (found.labels, found.parts) == ((), ())


@pytest.mark.parametrize(
    ("split", "message", "value"),
    [
        ({"train": ["brick/nowhere.png"]}, "no such picture", "brick/nowhere.png"),
        ({"train": ["brick/000.png"], "test": ["brick/000.png"]}, "in train and in test", "brick/000.png"),
    ],
)
def test_a_split_of_other_data(
    clean_data: Dataset, context: Context, split: dict[str, list[str]], message: str, value: str
) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        find_leakage(clean_data, find_duplicates(clean_data, context), split)
    assert (caught.value.field, caught.value.value) == ("split", value)
