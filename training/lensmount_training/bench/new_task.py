"""From a folder of pictures to a live answer: trained, registered, promoted, asked, on a server that runs."""

from __future__ import annotations

import time
from pathlib import Path

from lensmount import Client
from lensmount.errors import UnavailableError
from lensmount_training.bench.case import Case, Known
from lensmount_training.bench.setting import Setting
from lensmount_training.demo.server import Served, started_server
from lensmount_training.progress import Progress
from lensmount_training.recipe import Recipe
from lensmount_training.workflow import train

LABELS, EACH, ALIAS = 2, 50, "live"
NEW_TASK = Known(
    "new_task",
    f"a new task of {LABELS} labels with {EACH} pictures each, from the folder to the first answer "
    "of a running server; audit, training and gate included, nothing cached",
    60,
)


def measure(setting: Setting, progress: Progress) -> Case:
    """A new task every round; the server's start does not count."""
    folder = setting.source.write_classes(setting.scratch / "new-task", LABELS, EACH)
    bar = progress.bar(NEW_TASK.name, setting.rounds)
    seconds = []
    server = started_server(setting.scratch / "server", Served(setting.backbone.name, setting.weights))
    with server as address, Client(address) as client:
        for number in range(setting.rounds):
            start = time.perf_counter()
            answered(setting, folder, f"new-{number}", client)
            seconds.append(time.perf_counter() - start)
            bar.advance()
    return NEW_TASK.alone(seconds)


def answered(setting: Setting, folder: Path, task: str, client: Client) -> None:
    """Train a task, put it live, and ask; raises UnavailableError unless its new version answers."""
    recipe = Recipe(data=folder, task=task, backbone=setting.backbone.name, weights=setting.weights)
    runs, cache = setting.scratch / "runs", setting.fresh("new-cache")
    run = train(recipe, runs / task, cache=cache, openings=setting.scratch / "openings")
    registered = client.register(run.out, alias=ALIAS).adapter
    picture = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    (result,) = client.infer(picture, f"{task}@{ALIAS}")
    if result.version != registered.version:
        message, fix = "the server answered with another version", "look at its log in the bench's scratch folder"
        raise UnavailableError(message, field="cases", value=result.version, fix=fix)
