from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lensmount import convert, drawing
from lensmount.drawing import AMBER, CYAN, VERSIONS, Card, Layout, draw
from lensmount.results import AdapterVersion, Drops, Result

GREEN = (40, 160, 60)


@pytest.fixture
def result(result_message: Callable[..., Any]) -> Result:
    return convert.result(result_message(source="line-1", frame_index=7, capture_time_ns=1_700_000_000_250_000_000))


def sheet(cards: Sequence[Card], width: int = 640, height: int = 360) -> Image.Image:
    return draw(Image.new("RGB", (width, height), GREEN), cards, Layout.of(width, height, len(cards)))


def texts(monkeypatch: pytest.MonkeyPatch, cards: Sequence[Card]) -> list[str]:
    """What is written on a sheet."""
    written: list[str] = []
    original = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, place: Any, told: str, *args: Any, **kwargs: Any) -> None:
        written.append(told)
        original(self, place, told, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    sheet(cards)
    return [told for told in written if told]


def has(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
    distance = np.abs(np.asarray(picture).astype(int) - colour).sum(axis=2)
    return bool((distance < 12).any())


@pytest.mark.parametrize(("width", "height"), [(640, 360), (641, 363), (1920, 1080), (96, 64), (64, 900)])
@pytest.mark.parametrize("cards", [1, 2, 3, 7, 64])
def test_nothing_of_the_picture_is_covered(width: int, height: int, cards: int, result: Result) -> None:
    layout = Layout.of(width, height, cards)
    drawn = draw(Image.new("RGB", (width, height), GREEN), [Card(result)] * cards, layout)
    assert drawn.size == layout.size
    assert not any(side % 2 for side in drawn.size)
    assert layout.width >= 640
    assert layout.width / layout.height == pytest.approx(width / height, rel=0.01)
    shown = np.asarray(drawn)[layout.head : layout.head + layout.height, : layout.width]
    assert (shown == GREEN).all()


def test_it_tells_who_says_what(monkeypatch: pytest.MonkeyPatch, result: Result) -> None:
    written = texts(monkeypatch, [Card(result)])
    assert {"line-1   frame 7", "defect v2", "scratch 0.75", "good 0.25"} <= set(written)
    assert any(told.startswith("2023-11-1") and ".250" in told for told in written)


def test_every_label_of_a_decision_has_its_score(monkeypatch: pytest.MonkeyPatch, result: Result) -> None:
    assert "scratch 0.75   good 0.25" in texts(monkeypatch, [Card(replace(result, labels=("scratch", "good")))])
    assert "nothing" in texts(monkeypatch, [Card(replace(result, labels=()))])


def test_losses_repeats_and_old_answers_are_marked(monkeypatch: pytest.MonkeyPatch, result: Result) -> None:
    lossy = replace(result, dropped_before=Drops(superseded=3, rate=2))
    assert "dropped 3 superseded, 2 rate" in texts(monkeypatch, [Card(lossy)])
    assert "REUSED" in texts(monkeypatch, [Card(replace(lossy, reused=True))])
    old = texts(monkeypatch, [Card(result), Card(replace(lossy, frame_index=4), stale=True)])
    assert "frame 4" in old
    assert not any("dropped" in told for told in old)


def test_marks_can_be_seen(result: Result) -> None:
    plain, lossy = sheet([Card(result)]), sheet([Card(replace(result, dropped_before=Drops(late=1)))])
    assert (has(plain, AMBER), has(lossy, AMBER)) == (False, True)
    assert not has(sheet([Card(replace(result, dropped_before=Drops(rate=4)))]), AMBER), "as it was asked for"
    repeated = sheet([Card(replace(result, reused=True))])
    assert (has(plain, CYAN), has(repeated, CYAN)) == (False, True)


def test_versions_differ_in_colour(result: Result) -> None:
    for version in (1, 2, 3, 4):
        adapter = AdapterVersion("defect", version, "")
        assert has(sheet([Card(replace(result, adapter=adapter))]), VERSIONS[version - 1])


def test_long_words_are_cut_to_their_card(monkeypatch: pytest.MonkeyPatch, result: Result) -> None:
    wordy = replace(result, labels=("a very long label " * 9,), adapter=AdapterVersion("x" * 64, 1, ""))
    written = texts(monkeypatch, [Card(wordy, stale=False)] * 3)
    assert sum(told.endswith("…") for told in written) >= 6
    assert max(map(len, written)) < 60


def test_a_picture_of_another_size_is_fitted_in(result: Result) -> None:
    layout = Layout.of(640, 360, 1)
    drawn = np.asarray(draw(Image.new("RGB", (360, 640), GREEN), [Card(result)], layout))
    assert tuple(drawn[layout.head + 180, 320]) == GREEN
    assert tuple(drawn[layout.head + 180, 20]) == drawing.GROUND
