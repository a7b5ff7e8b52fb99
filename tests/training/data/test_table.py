"""A table of pictures: whatever a spreadsheet makes of it; rows that can not be used stop nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensmount.errors import InvalidInputError
from lensmount_training.data import Listing, Skipped
from lensmount_training.data.table import list_table
from stills import fill


def table(folder: Path, text: str, name: str = "labels.csv", encoding: str = "utf-8") -> Listing:
    fill(folder / "images", 6)
    (folder / name).write_text(text, encoding=encoding)
    return list_table(folder / name)


def labels(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {entry.file: entry.labels for entry in listing.entries}


def test_one_label_a_picture(tmp_path: Path) -> None:
    listing = table(tmp_path, "file,label\nimages/1.png,ok\nimages/0.png,hole\n")
    assert (listing.form, listing.kind, listing.labels) == ("table", "single_label", ("hole", "ok"))
    assert [(entry.file, entry.labels) for entry in listing.entries] == [
        ("images/1.png", ("ok",)), ("images/0.png", ("hole",)),
    ]  # fmt: skip
    assert listing.entries[0].read().decode().shape == (24, 32, 3)
    assert listing.skipped == ()
    assert listing.notes == ()


@pytest.mark.parametrize("file", ["file", "path", "image", "filename", "file_name", "Image", "FILE"])
@pytest.mark.parametrize("label", ["label", "labels", "class", "Class"])
def test_columns_are_found_by_name(tmp_path: Path, file: str, label: str) -> None:
    listing = table(tmp_path, f"number,{label},{file}\n1,ok,images/0.png\n2,hole,images/1.png\n")
    assert labels(listing) == {"images/0.png": ("ok",), "images/1.png": ("hole",)}


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("l.csv", "file,label\r\nimages/0.png,ok\r\nimages/1.png,hole\r\n", "utf-8"),
        ("l.csv", "file,label\nimages/0.png,ok\nimages/1.png,hole", "utf-8-sig"),
        ("l.csv", 'file;label\n"images/0.png";ok\nimages/1.png; hole \n\n;\n', "utf-8"),
        ("l.tsv", "file\tlabel\nimages/0.png\tok\nimages/1.png\thole\n", "utf-8"),
        ("l.csv", "file,label\nimages\\0.png,ok\n.\\images\\1.png,hole\n", "utf-8"),
    ],
)
def test_as_spreadsheets_write_it(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    assert labels(table(tmp_path, text, name, encoding)) == {"images/0.png": ("ok",), "images/1.png": ("hole",)}


def test_commas_and_line_breaks_in_quotes(tmp_path: Path) -> None:
    listing = table(tmp_path, 'file,label,note\nimages/0.png,"a, b","two\nlines"\nimages/1.png,c,\n')
    assert labels(listing) == {"images/0.png": ("a, b",), "images/1.png": ("c",)}


def test_an_absolute_path_into_the_folder_is_named_by_its_end(tmp_path: Path) -> None:
    listing = table(tmp_path, f"file,label\n{tmp_path}/images/0.png,ok\nimages/1.png,hole\n")
    assert set(labels(listing)) == {"images/0.png", "images/1.png"}


def test_a_relative_path_to_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path, "file,label\nimages/0.png,ok\nimages/1.png,hole\n")
    monkeypatch.chdir(tmp_path)
    listing = list_table(Path("labels.csv"))
    assert set(labels(listing)) == {"images/0.png", "images/1.png"}
    assert listing.entries[0].read().decode().shape == (24, 32, 3)


def test_group_and_source(tmp_path: Path) -> None:
    text = "file,label,group,camera\nimages/0.png,ok,board 1,left\nimages/1.png,hole,,right\n"
    entries = table(tmp_path, text).entries
    assert [(entry.group, entry.source) for entry in entries] == [("board 1", "left"), ("", "right")]
    text = "file,label,source\nimages/0.png,ok,top\nimages/1.png,hole,\n"
    assert [entry.source for entry in table(tmp_path, text).entries] == ["top", ""]


def test_a_split_is_not_used_and_that_is_said(tmp_path: Path) -> None:
    listing = table(tmp_path, "file,label,split\nimages/0.png,ok,train\nimages/1.png,hole,test\n")
    assert len(listing.notes) == 1
    assert "split" in listing.notes[0]
    assert {entry.group for entry in listing.entries} == {""}


@pytest.mark.parametrize("parted", ["a; b", "a|b", " b |a;a"])
def test_several_labels_in_one_cell(tmp_path: Path, parted: str) -> None:
    listing = table(tmp_path, f"file,labels\nimages/0.png,{parted}\nimages/1.png,a\nimages/2.png,\nimages/3.png,;\n")
    assert (listing.kind, listing.labels) == ("multi_label", ("a", "b"))
    found = labels(listing)
    assert sorted(found.pop("images/0.png")) == ["a", "b"]
    assert found == {"images/1.png": ("a",), "images/2.png": (), "images/3.png": ()}


def test_a_column_of_zeros_and_ones_for_each_label(tmp_path: Path) -> None:
    text = "file,Scratch,hole,comment,split\nimages/0.png,1,1,see,x\nimages/1.png,0,1.0,,x\nimages/2.png,FALSE,0,,y\n"
    listing = table(tmp_path, text)
    assert (listing.kind, listing.labels) == ("multi_label", ("Scratch", "hole"))
    assert {name: set(own) for name, own in labels(listing).items()} == {
        "images/0.png": {"Scratch", "hole"},
        "images/1.png": {"hole"},
        "images/2.png": set(),
    }
    assert any("comment" in note for note in listing.notes)


def test_exactly_one_label_in_every_row_is_remarked(tmp_path: Path) -> None:
    listing = table(tmp_path, "file,a,b\nimages/0.png,1,0\nimages/1.png,0,1\n")
    assert listing.kind == "multi_label"
    assert "exactly one 1" in listing.notes[0]


def test_rows_that_can_not_be_used_are_skipped_with_reasons(tmp_path: Path) -> None:
    text = (
        "file,label\nimages/0.png,ok\nimages/9.png,ok\n../out.png,ok\n/etc/hostname,ok\nimages/1.png,\n,ok\n"
        "images/2.png,ok,more\nimages/3.png\nimages,ok\n\nimages/4.png,hole\n"
        f"{'x' * 300}.png,ok\nimages/5.png,{'y' * 101}\n"
    )
    listing = table(tmp_path, text)
    (tmp_path.parent / "out.png").write_bytes(b"")
    assert labels(listing) == {"images/0.png": ("ok",), "images/4.png": ("hole",)}
    assert listing.labels == ("hole", "ok")
    assert {(skip.file[:12], skip.reason) for skip in listing.skipped} == {
        ("images/9.png", "no such file"),
        ("../out.png", "outside of the folder of the index"),
        ("/etc/hostname"[:12], "outside of the folder of the index"),
        ("images/1.png", "no label"),
        ("(no name)", "no such file"),
        ("labels.csv:8", "3 cells in the row, 2 columns"),
        ("labels.csv:9", "1 cells in the row, 2 columns"),
        ("images", "no such file"),
        ("x" * 12, "no such file"),
        ("images/5.png", "a class name has 1 to 100 printable characters"),
    }


def test_a_slip_in_a_column_of_zeros_and_ones(tmp_path: Path) -> None:
    text = "file,a,b\nimages/0.png,1,0\nimages/1.png,yes,1\nimages/2.png,0,\nimages/3.png,1,1\nimages/4.png,0,0\n"
    listing = table(tmp_path, text)
    assert set(labels(listing)) == {"images/0.png", "images/3.png", "images/4.png"}
    assert listing.skipped == (
        Skipped("images/1.png", "a is yes, neither 0 nor 1"),
        Skipped("images/2.png", "b is empty, neither 0 nor 1"),
    )


def test_a_picture_named_again(tmp_path: Path) -> None:
    text = "file,label\nimages/0.png,ok\nimages/0.png,ok\nimages/1.png,ok\nimages/./1.png,hole\nimages/2.png,hole\n"
    listing = table(tmp_path, text)
    assert labels(listing) == {"images/0.png": ("ok",), "images/2.png": ("hole",)}
    assert listing.skipped == (
        Skipped("images/0.png", "named 2 times, used once"),
        Skipped("images/1.png", "named 2 times with different labels: ok / hole"),
    )


def test_a_class_without_a_picture_is_not_forgotten(tmp_path: Path) -> None:
    """Reading refuses it, by its name; a folder that is not mounted must not make a class vanish."""
    listing = table(tmp_path, "file,label\nimages/0.png,ok\nimages/1.png,hole\nelsewhere/1.png,crack\n")
    assert listing.labels == ("crack", "hole", "ok")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column for the pictures"),
        ("a,b\n1,2\n", "no column for the pictures"),
        ("images/0.png,ok\nimages/1.png,hole\n", "no column for the pictures"),
        ("file,note\nimages/0.png,fine\n", "no column for the labels"),
        ("file,defect\nimages/0.png,1\nimages/1.png,0\n", "one column of zeros and ones only"),
        ("file,label\n", "it names no pictures"),
        (
            "file,label\ngone.png,ok\nlost.png,hole\n",
            "none of the 2 it names can be used; the first, gone.png: no such",
        ),
        ("file,labels\nimages/0.png,;\nimages/1.png,|\n", "no picture has a label"),
        ("file,label,label\nimages/0.png,ok,ok\n", "two columns have one name"),
        ('file,label\nimages/0.png,"ok\n', "the table is damaged"),
        ("file,label\nimages/0.png," + "x" * 200_000 + "\n", "the table is damaged"),
    ],
)
def test_tables_that_can_not_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        table(tmp_path, text)
    assert caught.value.field == "data"
    assert caught.value.fix


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        table(tmp_path, "file,label\nimages/0.png,größer\n", encoding="cp1252")


def test_no_such_table(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="No such file") as caught:
        list_table(tmp_path / "labels.csv")
    assert caught.value.field == "data"


def test_a_label_is_zero_or_one_where_the_column_is_called_so(tmp_path: Path) -> None:
    listing = table(tmp_path, "file,label\nimages/0.png,0\nimages/1.png,1\n")
    assert (listing.kind, listing.labels) == ("single_label", ("0", "1"))
