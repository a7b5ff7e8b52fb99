"""Compiling steps back, comes back, and takes what it started along."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lensmount_server.engine.cpu import background
from lensmount_server.engine.cpu.background import LOWEST, in_background, may_return


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(not may_return(), reason="this user may not raise a priority again")
def test_threads_that_are_started_in_the_background_do_not_stay_there() -> None:
    def compiled() -> tuple[int, int, int, int]:
        before, inside = priority(), ThreadPoolExecutor(1)
        with in_background():
            low = priority()
            inside.submit(priority).result()
        with inside:
            return before, low, priority(), inside.submit(priority).result()

    with ThreadPoolExecutor(1) as own:
        before, low, after, started = own.submit(compiled).result()
    assert low == LOWEST
    assert (after, started) == (before, before)


@pytest.mark.skipif(not may_return(), reason="this user may not raise a priority again")
def test_it_comes_back_from_an_error() -> None:
    before = priority()
    with pytest.raises(ZeroDivisionError), in_background():
        raise ZeroDivisionError
    assert priority() == before


def test_who_may_not_come_back_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "may_return", lambda: False)
    before = priority()
    with in_background():
        assert priority() == before


def test_an_ordinary_user_finds_out_without_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that tried it out ends with its low priority; the others never had it."""
    before, setpriority = priority(), os.setpriority

    def one_way(which: int, who: int, value: int) -> None:
        if value < os.getpriority(which, who):
            raise PermissionError(13, "Permission denied")
        setpriority(which, who, value)

    monkeypatch.setattr(os, "setpriority", one_way)
    assert not may_return.__wrapped__()
    assert priority() == before
