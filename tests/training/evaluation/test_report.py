"""The report is one file that says it all; labels and names of files are text in it, whatever they hold."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from lensmount.errors import InvalidInputError
from lensmount_training.data import Facts, Picture, Skipped
from lensmount_training.evaluation import Calibration
from lensmount_training.evaluation.comparing import compare
from lensmount_training.evaluation.judging import evaluate
from lensmount_training.evaluation.reasons import plain
from lensmount_training.evaluation.report import Report, Shown, render, write
from lensmount_training.evaluation.scores import decisions, truths

HOSTILE = ('<script>alert("x")</script>', "</svg><img src=x onerror=alert(1)>", "{{ 7 * 7 }} $x^2$ & 'quoted'")
VOID = {"meta", "img", "br", "rect", "line", "circle", "polyline", "link", "input"}
# What Python can not say in UTF-8: a file's name that is no text.
ODD_FILE = "crack/\udcff<b>.png"


class Reader(HTMLParser):
    """Tags in order, their attributes, all text; fails on tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        # `thead` and `p` need no end of their own in HTML; here all have one.
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @classmethod
    def of(cls, html: str) -> Reader:
        reader = cls()
        reader.feed(html)
        reader.close()
        assert not reader._open
        return reader


def made(labels: tuple[str, ...] = HOSTILE, kind: str = "single_label", count: int = 90) -> Report:
    """A report with every section in it."""
    size = len(labels)
    targets = torch.arange(count) % size
    logits = 2 * F.one_hot(targets, size) + torch.randn(count, size, generator=torch.Generator().manual_seed(0))
    if kind == "multi_label":
        targets = F.one_hot(targets, size).float()
    pictures = [
        Picture(ODD_FILE, (0,), "0", f"group{i // 3}", labels[i % 2], Facts(8, 8, i / count, float(i)))
        for i in range(count)
    ]
    calibration = Calibration(
        1.5, requirements={f"recall.{labels[0]}": 0.99, "accuracy": 0.999}, notes=(f"{labels[0]}: few",)
    )
    evaluation = evaluate(logits, targets, labels, kind, calibration, pictures)  # type: ignore[arg-type]
    called, true = decisions(logits, evaluation.kind, calibration), truths(targets, size)
    row = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    return Report(
        task="<u>task</u>",
        evaluation=evaluation,
        part="All of <i>them</i>.",
        facts={"package": "<u>runs</u>"},
        shown=tuple(Shown(own, plain(row), plain(row)) for own in evaluation.worst),
        comparison=compare(labels[0], "other", called, called[::-1], true),
        skipped=tuple(Skipped(f"{labels[0]}{i}", labels[1]) for i in range(60)),
    )


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_hostile_labels_are_text(kind: str) -> None:
    html = render(made(kind=kind))
    reader = Reader.of(html)
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "iframe", "object", "link", "u"}
    assert all(not name.startswith("on") for _, attributes in reader.tags for name in attributes)
    text = " ".join("".join(reader.text).split())
    for label in HOSTILE:
        assert label in text
    assert "49 " not in text.replace("149 ", "")  # nothing of a label is a template
    assert "<u>runs</u>" in text
    assert "<u>task</u>" in text


def test_nothing_is_fetched() -> None:
    reader = Reader.of(render(made()))
    for _, attributes in reader.tags:
        for name in ("src", "href", "xlink:href", "data"):
            assert attributes.get(name, "data:").startswith("data:")
    policy = next(attributes for _, attributes in reader.tags if "http-equiv" in attributes)
    assert policy["content"].startswith("default-src 'none'")
    assert "url(" not in render(made())


def test_every_section_is_there() -> None:
    text = "".join(Reader.of(render(made(count=60))).text)
    for title in (
        "What it was judged by", "What was required", "Figures", "By label", "Who is taken for whom",
        "Are the probabilities right?", "At other thresholds", "Where it is better or worse", "Against other",
        "The worst pictures", "Where it comes from", "Files that were not judged",
    ):  # fmt: skip
        assert title in text
    assert "NOT reached" in text
    assert "and 10 more." in text
    assert "few pictures" in text


def test_sections_without_anything_in_them_are_not() -> None:
    own = made()
    bare = replace(
        own,
        evaluation=replace(own.evaluation, calibration=Calibration(), slices=(), curves=()),
        shown=(),
        comparison=None,
        skipped=(),
    )
    text = "".join(Reader.of(render(bare)).text)
    for title in ("What was required", "At other thresholds", "Where it is better", "Against", "The worst", "Files"):
        assert title not in text
    assert "no recall was required" in text


def test_lines_stay_in_their_frames() -> None:
    reader = Reader.of(render(made(count=2000)))
    lines = [attributes["points"] for tag, attributes in reader.tags if tag == "polyline"]
    assert len(lines) == 1 + 2 * 3
    for line in lines:
        corners = [tuple(map(float, corner.split(","))) for corner in line.split()]
        assert 2 <= len(corners) <= 202
        assert all(10 <= x <= 190 and 10 <= y <= 190 for x, y in corners)


def test_many_labels_are_a_list_of_mistakes() -> None:
    text = "".join(Reader.of(render(made(tuple(f"label {i}" for i in range(60)), count=300))).text)
    assert "The most common mistakes" in text
    assert "Who is taken for whom" not in text
    assert "48 more are not drawn" in " ".join(text.split())


def test_it_is_small_enough_to_be_sent(tmp_path: Path) -> None:
    own = made()
    large = torch.randint(0, 256, (3, 1024, 1024), dtype=torch.uint8)  # noise is what JPEG can do least with
    shown = tuple(Shown(each.worst, plain(large), plain(large)) for each in own.shown)
    write(replace(own, shown=shown), tmp_path / "deep" / "report.html")
    assert len(shown) == 24
    assert (tmp_path / "deep" / "report.html").stat().st_size < 15e6
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.html"]


def test_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="can not be written") as caught:
        write(made(), tmp_path / "file" / "report.html")
    assert (caught.value.field, caught.value.fix) == ("out", "give another --out")
