"""`lensmount audit` as a person types it, and the page that it writes."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from factories import random_backbone
from lensmount.cli.group import CommandGroup
from lensmount.errors import InvalidInputError
from lensmount_training.audit import writing
from lensmount_training.audit.command import audit
from planted import clean, jpeg, save, surface

HOSTILE = "<script>alert(1)<"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(random_backbone("test_vit").model.state_dict(), path)
    return path


@pytest.fixture
def small(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The words that choose a small backbone, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return ["--backbone", "test_vit", "--weights", weights, "--cache", tmp_path / "cache"]


def invoke(*words: object) -> Result:
    group = CommandGroup("lensmount", entry_group="none", commands={"audit": audit})
    return CliRunner().invoke(group, ["audit", *map(str, words)])


class Page(HTMLParser):
    """What a browser would make of it: tags, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_clean_folder(clean_folder: Path, small: list[object]) -> None:
    result = invoke(clean_folder, *small)
    assert result.exit_code == 0, result.output
    assert "Fit to train." in result.output
    assert "Page: runs/audit-parts/audit.html" in result.output
    assert sorted(path.name for path in Path("runs").iterdir()) == ["audit-parts"]
    page = Page(Path("runs/audit-parts/audit.html").read_text())
    assert page.tags.count("img") >= 72
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "script" not in page.tags
    document = json.loads(Path("runs/audit-parts/audit.json").read_text())
    assert (document["exit_code"], document["pictures"], document["labels"]) == (0, 72, ["brick", "grass", "gravel"])


def test_what_must_be_looked_at_first_is_exit_code_1(tmp_path: Path, small: list[object]) -> None:
    folder = clean(tmp_path / "parts", 20)
    save(folder / "grass" / "like-brick.png", jpeg(surface("brick", 1)))
    result = invoke(folder, *small, "--json", "--out", "mine")
    assert result.exit_code == 1, result.output
    said = json.loads(result.stdout)
    assert (said["verdict"], said["exit_code"]) == ("stop", 1)
    assert said == json.loads(Path("mine/audit.json").read_text())
    assert said["parts"]["duplicates"]["sets"] == [["brick/001.png", "grass/like-brick.png"]]
    assert "Do not train yet: 1 thing must be looked at first." in Path("mine/audit.html").read_text()


def test_strict_counts_warnings(tmp_path: Path, small: list[object]) -> None:
    folder = clean(tmp_path / "parts", 20)
    save(folder / "brick" / "dark.png", surface("brick", 100) // 5)
    assert invoke(folder, *small).exit_code == 0
    assert invoke(folder, *small, "--strict").exit_code == 1
    assert json.loads(Path("runs/audit-parts/audit.json").read_text())["exit_code"] == 1


def test_names_are_text_whatever_is_in_them(tmp_path: Path, small: list[object]) -> None:
    folder = clean(tmp_path / "parts", 20, ("brick", "grass"))
    (folder / "brick").rename(folder / f"{HOSTILE}b>")
    save(folder / "grass" / f"{HOSTILE}\"' onload=x>.png", surface("grass", 100) // 5)
    save(folder / "grass" / "more.png", surface("grass", 101)).rename(folder / "grass" / os.fsdecode(b"\xff.png"))
    result = invoke(folder, *small)
    assert result.exit_code == 0, result.output
    html = Path("runs/audit-parts/audit.html").read_text()
    assert "<script" not in html
    page = Page(html)
    assert not {"script", "onload"} & {*page.tags, *page.attributes}
    assert f"{HOSTILE}b>" in page.text
    assert "\\udcff.png" in page.text
    json.loads(Path("runs/audit-parts/audit.json").read_text())


def test_a_split(tmp_path: Path, clean_folder: Path, small: list[object]) -> None:
    files = sorted(str(path.relative_to(clean_folder)) for path in clean_folder.rglob("*.png"))
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"data_hash": "x", "seed": 0, "train": files[2:], "test": files[:2]}))
    assert invoke(clean_folder, *small, "--split", split).exit_code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a split file"),
        ('{"train": ["brick/000.png"], "test": 3}', "not a split file"),
        ('{"train": ["brick/000.png"]}', "fewer than two parts"),
        ('{"train": ["brick/000.png"], "test": ["gone.png"]}', "no such picture in the data"),
        (None, "No such file"),
    ],
)
def test_a_split_that_is_none(
    text: str | None, said: str, tmp_path: Path, clean_folder: Path, small: list[object]
) -> None:
    if text is not None:
        (tmp_path / "split.json").write_text(text)
    result = invoke(clean_folder, *small, "--split", tmp_path / "split.json")
    assert result.exit_code == 2
    assert said in result.output
    assert not list(Path("runs").glob("*"))


def test_an_earlier_audit_is_replaced_and_nothing_else(
    clean_folder: Path, small: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine").mkdir()
    Path("mine/audit.html").write_text("old")
    assert invoke(clean_folder, *small, "--out", "mine").exit_code == 0
    assert "Fit to train" in Path("mine/audit.html").read_text()
    before = Path("mine/audit.json").read_bytes()
    Path("mine/diary.txt").write_text("mine")
    result = invoke(clean_folder, *small, "--out", "mine")
    assert result.exit_code == 2
    assert "out: holds something that no audit wrote (got mine)" in result.output
    assert Path("mine/audit.json").read_bytes() == before


def test_a_full_disk_leaves_the_earlier_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "audit"
    writing.write(out, b"one", "{}")
    monkeypatch.setattr(Path, "write_text", _full)
    with pytest.raises(InvalidInputError, match="can not be written: no space"):
        writing.write(out, b"two", "{}")
    assert (out / "audit.html").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["audit"]


def _full(*_: object) -> int:
    raise OSError(28, "no space")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "no such file or folder (got nowhere). Fix:"),
        ((".", "--out", "cache-file/x"), "out: can not be written"),
        ((".", "--seed", "-1"), "--seed"),
        ((".", "--every", "0"), "every: at least 0.001 seconds (got 0.0)"),
        ((".", "--margin", "10.5"), "margin: 0 to 10 expected (got 10.5)"),
    ],
)
def test_mistakes_are_one_sentence(words: tuple[str, ...], said: str, small: list[object]) -> None:
    Path("cache-file").write_text("")
    result = invoke(*words, *small)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output
    assert not list(Path("runs").glob("*/*"))


def test_help_teaches_by_example() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert "lensmount audit parts --strict --json" in result.output
