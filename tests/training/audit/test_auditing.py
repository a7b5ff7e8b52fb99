"""A folder with one fault of each kind, and one without: all are found in the first, none in the second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lensmount_adapters.backbones import Backbone
from lensmount_training.audit.auditing import Audit, audit
from lensmount_training.audit.balance import class_balance
from lensmount_training.audit.sheets import MOST, PER_CLASS, draw_sheets
from lensmount_training.context import Context
from lensmount_training.data.dataset import Dataset
from lensmount_training.data.folder import list_folder
from lensmount_training.data.listing import Listing
from lensmount_training.data.reading import read
from lensmount_training.strategies.strategy import Problem
from planted import blurred, clean, jpeg, opened, resized, save, surface

DARK, BLURRED, SMALL = "brick/dark.png", "grass/blurred.png", "grass/small.png"
SWAPPED = {"brick/swapped.png", "gravel/swapped.png"}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = clean(tmp_path_factory.mktemp("planted") / "parts")
    save(folder / DARK, surface("brick", 200) // 5)
    save(folder / BLURRED, blurred(surface("grass", 200)))
    save(folder / SMALL, surface("grass", 201)[:40, :40])
    save(folder / "brick" / "swapped.png", surface("gravel", 202))
    save(folder / "gravel" / "swapped.png", surface("grass", 203))
    save(folder / "gravel" / "encoded.png", resized(jpeg(surface("gravel", 0)), 0.95))
    save(folder / "grass" / "like-brick.png", jpeg(surface("brick", 1)))
    (folder / "gravel" / "zz.png").write_bytes((folder / "gravel" / "002.png").read_bytes())
    (folder / "gravel" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def found(planted: Path, backbone: Backbone, context: Context) -> Audit:
    return audit(opened(planted, backbone, context), backbone, context)


def test_every_planted_fault_is_found(found: Audit) -> None:
    files = {finding.kind: set(finding.files) for finding in found.findings}
    assert files["dark"] == {DARK}
    assert BLURRED in files["blurred"]
    assert files["odd size"] == {SMALL}
    assert files["label errors"] >= SWAPPED
    assert files["duplicates"] == {
        "brick/001.png", "grass/like-brick.png", "gravel/000.png", "gravel/encoded.png",
    }  # fmt: skip
    assert files["labels disagree"] == {"brick/001.png", "grass/like-brick.png"}
    texts = {finding.kind: finding.text for finding in found.findings}
    assert "gravel/broken.png: the data is not a picture" in texts["skipped files"]
    assert "1 byte-for-byte copy" in texts["duplicates"]
    assert (found.verdict, found.exit_code()) == ("stop", 1)
    assert found.look_first[:2] == ("brick/001.png", "grass/like-brick.png")


def test_suspicious_pictures_come_first_on_the_sheets(found: Audit) -> None:
    brick = found.sheets[0]
    reasons = {shot.file: shot.reasons for shot in brick.shots if shot.reasons}
    assert "dark" in reasons[DARK]
    assert "also as brick / grass" in reasons["brick/001.png"]
    marked = [bool(shot.reasons) for shot in brick.shots]
    assert marked == sorted(marked, reverse=True)
    assert len(brick.shots) == brick.pictures == 26


def test_nothing_is_found_in_a_clean_folder(clean_data: Dataset, backbone: Backbone, context: Context) -> None:
    clear = audit(clean_data, backbone, context)
    assert [finding.text for finding in clear.findings if finding.level == "error"] == []
    assert {finding.kind for finding in clear.findings if finding.level == "warning"} <= {"domain"}
    assert clear.exit_code() == 0
    assert clear.parts.judgement.likely == ()


def test_a_leak_of_a_split_is_an_error(
    clean_data: Dataset, planted: Path, backbone: Backbone, context: Context
) -> None:
    dataset = opened(planted, backbone, context)
    test = ["gravel/000.png"]
    train = [picture.file for picture in dataset.pictures if picture.file not in test]
    leaky = audit(dataset, backbone, context, {"train": train, "test": test})
    leaks = [finding for finding in leaky.findings if finding.kind == "leakage"]
    assert [set(finding.files) for finding in leaks] == [{"gravel/000.png", "gravel/encoded.png"}]
    assert leaks[0].level == "error"


def test_the_same_data_give_the_same_audit(clean_data: Dataset, backbone: Backbone, context: Context) -> None:
    one, other = (audit(clean_data, backbone, context, seed=3) for _ in range(2))
    assert one == other
    assert one.sheets != audit(clean_data, backbone, context, seed=4).sheets


def test_pictures_with_several_labels(clean_folder: Path, backbone: Backbone, context: Context) -> None:
    """Bricks and grass are natural, grass and gravel lie on the ground; one brick is said to."""
    labels = {"brick": ("natural",), "grass": ("ground", "natural"), "gravel": ("ground",)}
    entries = tuple(
        replace(entry, labels=("ground", "natural") if entry.file == "brick/005.png" else labels[entry.labels[0]])
        for entry in list_folder(clean_folder).entries
    )
    listing = Listing(clean_folder, "test", "multi_label", ("ground", "natural"), entries)
    found = audit(read(listing, backbone.preprocessing, context.cache, context.progress), backbone, context)
    assert [own.pictures for own in found.parts.balance.classes] == [49, 48]
    assert [(issue.file, issue.suggested) for issue in found.parts.judgement.likely] == [
        ("brick/005.png", ("natural",)),
    ]  # fmt: skip
    assert [sheet.pictures for sheet in found.sheets] == [49, 48]


def test_small_and_uneven_classes(tmp_path: Path, backbone: Backbone, context: Context) -> None:
    folder = clean(tmp_path / "parts", 7)
    for number in range(7, 40):
        save(folder / "brick" / f"{number:03}.png", surface("brick", number))
    dataset = opened(folder, backbone, context)
    found = audit(dataset, backbone, context)
    kinds = {finding.kind: finding for finding in found.findings}
    assert kinds["small class"].level == "error"
    assert "grass (7), gravel (7)" in kinds["small class"].text
    assert "brick has 5.7 times the pictures of" in kinds["imbalance"].text
    assert any("43 of grass" in sentence for sentence in found.advice)


def test_weights_are_those_of_training(clean_data: Dataset, backbone: Backbone) -> None:
    pictures = clean_data.take([picture.file for picture in clean_data.pictures][10:])
    some = Dataset(
        clean_data.folder,
        "single_label",
        clean_data.labels,
        clean_data.pictures[10:],
        pictures.pixels,
        (),
        clean_data.entries,
    )
    trained = Problem(backbone, some.labels, pictures, pictures, 0).class_weights
    balance = class_balance(some, backbone)
    assert [own.weight for own in balance.classes] == [round(weight, 4) for weight in trained.tolist()]
    assert [own.pictures for own in balance.classes] == [14, 24, 24]
    assert not balance.uneven


def test_a_page_of_many_labels_stays_small(found: Audit, clean_data: Dataset) -> None:
    many = tuple(f"label {number}" for number in range(500))
    wide = Dataset(
        clean_data.folder, clean_data.kind, many, clean_data.pictures, clean_data.rows, (), clean_data.entries
    )
    assert max(len(sheet.shots) for sheet in draw_sheets(wide, found.parts, 0)) <= MOST // 500
    assert max(len(sheet.shots) for sheet in found.sheets) <= PER_CLASS
