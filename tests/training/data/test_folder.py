"""Sub-folders are classes; a folder that can not be trained on is refused in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lensmount.errors import InvalidInputError
from lensmount_training.data import Listing, Skipped, labels
from lensmount_training.data.folder import list_folder
from stills import encoded, fill


def files(listing: Listing) -> list[str]:
    return [entry.file for entry in listing.entries]


def test_classes_are_the_sorted_sub_folders(parts: Path) -> None:
    listing = list_folder(parts)
    assert (listing.form, listing.kind, listing.labels) == ("imagefolder", "single_label", ("hole", "ok"))
    assert files(listing) == [f"hole/{number}.png" for number in range(5)] + [f"ok/{number}.png" for number in range(6)]
    assert [entry.labels for entry in listing.entries] == [("hole",)] * 5 + [("ok",)] * 6
    assert {(entry.group, entry.source) for entry in listing.entries} == {("", "")}
    assert listing.skipped == ()


def test_a_folder_below_a_class_is_a_group(parts: Path) -> None:
    fill(parts / "ok" / "monday" / "early", 1, seed=40)
    fill(parts / "ok" / "monday", 2, seed=50)
    groups = {entry.file: (entry.group, entry.source) for entry in list_folder(parts).entries if entry.group}
    assert groups == {
        "ok/monday/0.png": ("ok/monday",) * 2,
        "ok/monday/1.png": ("ok/monday",) * 2,
        "ok/monday/early/0.png": ("ok/monday/early",) * 2,
    }


def test_hidden_files_are_left_alone(parts: Path) -> None:
    (parts / "ok" / ".DS_Store").write_bytes(b"x")
    fill(parts / ".thumbnails", 5, seed=200)
    fill(parts / "ok" / ".cache", 2, seed=300)
    listing = list_folder(parts)
    assert len(listing.entries) == 11
    assert listing.skipped == ()


def test_files_beside_the_classes_are_left_alone(parts: Path) -> None:
    (parts / "split.csv").write_text("file,label\n")
    assert len(list_folder(parts).entries) == 11


def test_a_class_may_be_a_link_to_a_folder(parts: Path, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", 5, seed=400)
    (parts / "crack").symlink_to(tmp_path / "elsewhere")
    assert next(entry.file for entry in list_folder(parts).entries if "crack" in entry.labels) == "crack/0.png"


def test_a_link_to_a_folder_below_a_class_is_skipped_and_said(parts: Path) -> None:
    (parts / "ok" / "round").symlink_to(parts)
    listing = list_folder(parts)
    assert len(listing.entries) == 11
    assert listing.skipped == (Skipped("ok/round", "a link to a folder, which is not followed"),)


def no_folder(root: Path) -> Path:
    return root / "nothing"


def a_file(root: Path) -> Path:
    (root / "file").write_text("x")
    return root / "file"


def no_classes(root: Path) -> Path:
    return fill(root / "flat", 6)


def long_name(root: Path) -> Path:
    fill(root / "long" / "ok", 6)
    fill(root / "long" / ("x" * 101), 6)
    return root / "long"


def line_break(root: Path) -> Path:
    fill(root / "break" / "ok", 6)
    fill(root / "break" / "a\nb", 6)
    return root / "break"


def no_text(root: Path) -> Path:
    fill(root / "bytes" / "ok", 6)
    os.mkdir(os.fsencode(root / "bytes") + b"/\xff")  # noqa: PTH102 bytes
    return root / "bytes"


@pytest.mark.parametrize(
    ("make", "message", "value"),
    [
        (no_folder, "no such folder", "nothing"),
        (a_file, "no such folder", "file"),
        (no_classes, "no class folder", "flat"),
        (long_name, "1 to 100 printable", "xxx"),
        (line_break, "1 to 100 printable", "a\\nb"),
        (no_text, "1 to 100 printable", "udcff"),
    ],
)
def test_folders_that_can_not_be_trained_on(
    tmp_path: Path, make: Callable[[Path], Path], message: str, value: str
) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        list_folder(make(tmp_path))
    assert caught.value.field == "data"
    assert value in caught.value.value
    assert caught.value.fix


def test_more_classes_than_a_package_may_name(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MAX_LABELS", 1)
    with pytest.raises(InvalidInputError, match="at most 1 classes"):
        list_folder(parts)


@pytest.mark.parametrize("where", ["", "ok", "ok/locked"])
def test_a_folder_that_can_not_be_read_is_refused(parts: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads everything, so the refusal of the system is played."""
    (parts / "ok" / "locked").mkdir()
    iterdir = Path.iterdir

    def locked(path: Path) -> object:
        if path == parts / where:
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", locked)
    with pytest.raises(InvalidInputError, match="can not be read: Permission denied") as caught:
        list_folder(parts)
    assert caught.value.field == "data"


def test_a_name_that_is_no_text_is_listed(parts: Path) -> None:
    os.rename(parts / "ok" / "0.png", os.fsencode(parts / "ok") + b"/\xff.png")  # noqa: PTH104 bytes
    assert "ok/\udcff.png" in files(list_folder(parts))


def test_a_file_that_changed_after_it_was_opened_is_not_decoded(parts: Path) -> None:
    entry = list_folder(parts).entries[0]
    content = entry.read()
    assert content.decode().shape == (24, 32, 3)
    (parts / entry.file).write_bytes(encoded(999))
    with pytest.raises(InvalidInputError, match="it was changed while it was read"):
        content.decode()


@pytest.mark.timeout(10)
def test_a_pipe_is_not_waited_for(parts: Path) -> None:
    os.mkfifo(parts / "ok" / "pipe.png")
    entry = next(entry for entry in list_folder(parts).entries if entry.file == "ok/pipe.png")
    with pytest.raises(InvalidInputError, match="neither a file nor a folder"):
        entry.read()
