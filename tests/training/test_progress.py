"""Bars on a console, and an end of them whatever happens."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lensmount_training.progress import BarProgress, NoProgress


def console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=120), out


def test_bars_count_and_carry_a_note() -> None:
    own, out = console()
    with BarProgress(own) as progress:
        bar = progress.bar("reading [pictures]", 3)
        bar.advance(2)
        bar.advance(1, "halfway [/red]")
        bar.advance(0)
    assert "reading [pictures]" in out.getvalue()
    assert "3/3" in out.getvalue()
    assert "halfway [/red]" in out.getvalue()


def test_sentences_are_printed_as_they_are() -> None:
    own, out = console()
    with BarProgress(own) as progress:
        progress.say("skipped [bold]x.png: damaged")
    assert "skipped [bold]x.png: damaged" in out.getvalue()


def test_the_display_ends_with_an_error() -> None:
    own, _ = console()
    with pytest.raises(ValueError, match="stop"), BarProgress(own):
        raise ValueError("stop")
    with BarProgress(own):  # a second display on the same console is refused while one is live
        pass


def test_no_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silent = NoProgress()
    silent.bar("reading", 3).advance(1, "x")
    silent.say("x")
    assert capsys.readouterr() == ("", "")
