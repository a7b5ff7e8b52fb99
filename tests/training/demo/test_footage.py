"""A source is watched for its time, and beyond it for a swap that is not over."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from lensmount import Client
from lensmount_training.demo.footage import PATIENCE_S, Account, SourceFootage

SECONDS = 10


class Clock:
    """Goes on by a second with every result that it is asked for."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def results(self, *_: object, **__: object) -> Iterator[SimpleNamespace]:
        for index in count():
            self.now_s += 1
            yield SimpleNamespace(frame_index=index, jpeg=b"")


@pytest.mark.parametrize(
    ("enough_s", "seen"),
    [(0, SECONDS), (SECONDS, SECONDS), (25, 25), (1000, SECONDS + PATIENCE_S)],
    ids=["nothing to wait for", "in time", "late", "never"],
)
def test_it_goes_on_until_there_was_enough(monkeypatch: pytest.MonkeyPatch, enough_s: float, seen: float) -> None:
    clock = Clock()
    monkeypatch.setattr("lensmount_training.demo.footage.time", clock)
    client = MagicMock(spec=Client)
    client.watch.side_effect = clock.results
    client.source.side_effect = lambda _: SimpleNamespace(fps=1.0, decoded=seen, dropped=SimpleNamespace(total=0))
    footage = SourceFootage(client, "line.mp4", ["defect"], SECONDS)

    results = list(footage.results(lambda: clock.now_s >= enough_s))

    assert len(results) == seen
    assert footage.account() == Account(int(seen), 0)
    assert footage.progress(results[-1]) == 1
    client.remove_source.assert_called_once_with("demo")
