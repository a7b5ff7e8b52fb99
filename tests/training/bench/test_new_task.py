"""A new task counts as live when the server that runs answers with its new version, and not before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from factories import head_package
from lensmount import Client
from lensmount.errors import UnavailableError
from lensmount_training.bench import new_task
from lensmount_training.bench.setting import Setting
from lensmount_training.progress import NoProgress
from lensmount_training.recipe import Recipe

Settings = Callable[[str], Setting]


@pytest.fixture
def own(setting: Settings, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """A training that takes no time; the server that gets its package is a real one."""
    made = setting("test_vit")

    def train(recipe: Recipe, out: Path, *, cache: Path, openings: Path) -> SimpleNamespace:
        assert not any(cache.iterdir())
        assert openings.parent == made.scratch  # never the user's own
        pictures = [path for path in recipe.data.rglob("*") if path.is_file()]
        assert len(pictures) == new_task.LABELS * new_task.EACH
        assert (recipe.backbone, recipe.weights, recipe.audit) == ("test_vit", made.weights, True)
        head_package(out, made.backbone, task=recipe.task, labels=2)
        return SimpleNamespace(out=out)

    monkeypatch.setattr(new_task, "train", train)
    return made


@pytest.mark.slow
def test_every_round_is_a_new_task(own: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    two = Setting(own.backbone, own.weights, own.source, own.pictures, own.scratch, rounds=2)
    asked: list[tuple[str, str]] = []
    answered = new_task.answered

    def spied(setting: Setting, folder: Path, task: str, client: Client) -> None:
        answered(setting, folder, task, client)
        (live,) = client.infer(next(folder.rglob("*.png")), task)
        asked.append((task, str(live.version)))

    monkeypatch.setattr(new_task, "answered", spied)
    case = new_task.measure(two, NoProgress())
    assert asked == [("new-0", "1"), ("new-1", "1")]
    assert (case.name, case.goal, case.rival_seconds, case.ratio, case.memory) == ("new_task", 60, None, None, None)
    assert 0 < case.seconds_low <= case.seconds <= case.seconds_high


class Stale:
    """A server that goes on answering with an old version."""

    def register(self, path: Path, *, alias: str) -> Any:
        assert (path / "task.json").is_file()
        assert alias == "live"
        return SimpleNamespace(adapter=SimpleNamespace(version=2))

    def infer(self, image: Path, tasks: str) -> list[Any]:
        assert image.is_file()
        assert tasks == "old@live"
        return [SimpleNamespace(version=1)]


def test_an_answer_of_an_old_version_does_not_count(own: Setting) -> None:
    folder = own.source.write_classes(own.scratch / "two", 2, 50)
    with pytest.raises(UnavailableError, match="another version"):
        new_task.answered(own, folder, "old", cast(Client, Stale()))
