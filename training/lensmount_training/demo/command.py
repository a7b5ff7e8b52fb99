"""`lensmount demo`: pictures, training, a server, a stream, and a swap on the way."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from lensmount import Client
from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import load_backbone
from lensmount_training.demo.annotate import write_video
from lensmount_training.demo.clip import Clip, ClipSettings, write_clip
from lensmount_training.demo.footage import ClipFootage, Footage, SourceFootage, open_clip
from lensmount_training.demo.outcome import Outcome, summarise, table
from lensmount_training.demo.pictures import PictureSettings, write_pictures
from lensmount_training.demo.server import Served, started_server
from lensmount_training.demo.show import play
from lensmount_training.demo.swap import Swap
from lensmount_training.demo.tasks import Learned, Lesson, learn
from lensmount_training.progress import Bar, BarProgress, Progress

MARK = ".lensmount-demo"
TRITON = "triton"
TRITON_EXAMPLE = "--backend triton --triton-url localhost:8001"


@dataclass(frozen=True)
class DemoConfig:
    """What to show; without `data`, `clip` and `source` the demo makes its own."""

    out: Path
    data: tuple[Path, ...]
    tasks: tuple[str, ...]
    clip: Path | None
    source: str | None
    seconds: float
    backbone: str
    weights: Path | None
    backend: str | None
    triton_url: tuple[str, ...]
    seed: int

    def check(self) -> None:
        """Raise InvalidInputError for options that do not go together."""
        if len(self.data) != len(self.tasks):
            fix = "give one --task NAME with every --data FOLDER"
            raise InvalidInputError("folders and tasks do not pair", field="task", value=len(self.tasks), fix=fix)
        if len(set(self.tasks)) != len(self.tasks):
            raise InvalidInputError("every task once", field="task", value=", ".join(self.tasks), fix="rename one")
        if self.clip and self.source:
            raise InvalidInputError(
                "a clip or a source, not both", field="source", value=self.source, fix="leave one out"
            )
        if self.data and not (self.clip or self.source):
            fix = "add --clip FILE, or --source URL, with your own --data"
            raise InvalidInputError("a video of your own is needed", field="clip", fix=fix)
        if self.backend == TRITON and not self.triton_url:
            raise InvalidInputError("no Triton is named", field="triton-url", fix=f"give {TRITON_EXAMPLE}")
        if self.backend not in {None, TRITON} and self.triton_url:
            fix = f"give {TRITON_EXAMPLE}, or leave --triton-url out"
            raise InvalidInputError("Tritons are named, and not asked", field="backend", value=self.backend, fix=fix)
        if self.clip:
            open_clip(self.clip).close()


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("demo-out"), show_default=True)
@click.option(
    "--data", multiple=True, type=click.Path(path_type=Path, file_okay=False), help="Your pictures, a folder a label."
)
@click.option("--task", "tasks", multiple=True, help="The task that goes with the --data before it.")
@click.option("--clip", type=click.Path(path_type=Path, dir_okay=False), help="Your H.264 or H.265 file.")
@click.option("--source", help="Your camera (rtsp://…) or a file that the server reads.")
@click.option(
    "--seconds",
    type=click.FloatRange(2, 3600),
    default=40.0,
    show_default=True,
    help="How long to watch a --source, at least.",
)
@click.option("--backbone", default="tf_efficientnet_lite0", show_default=True, help="timm's name of the shared model.")
@click.option("--weights", type=click.Path(path_type=Path, dir_okay=False), help="Its weights (safetensors).")
@click.option(
    "--backend",
    type=click.Choice(("torch", TRITON)),
    help="Where the server computes, as `lensmount serve` has it; triton, where a --triton-url is given.",
)
@click.option("--triton-url", multiple=True, metavar="HOST:PORT", help="The gRPC of a Triton that computes for it.")
@click.option("--seed", default=0, show_default=True, help="Decides every pixel and every weight.")
@click.option("--json", "as_json", is_flag=True, help="The last line is one JSON object.")
def demo(as_json: bool, **options: object) -> None:
    """Train two tasks, stream a video through one backbone, replace an adapter on the way.

    Everything it needs came with pip. It takes about three minutes on two cores and leaves the
    annotated video, the packages and the pictures in --out.

    \b
        lensmount demo
        lensmount demo --data parts/ --task defect --clip line.mp4
    """  # noqa: D301 - click wants the control character
    config = DemoConfig(**options)  # type: ignore[arg-type] # click's names are the fields
    config.check()
    console = Console(stderr=as_json)
    outcome = run(config, console)
    console.print(table(outcome))
    console.print(_account(outcome))
    if as_json:
        click.echo(json.dumps(outcome.as_json()))


def run(config: DemoConfig, console: Console) -> Outcome:
    """Do all of it; what it wrote lies in `config.out`."""
    start = time.perf_counter()
    _clear(config.out)
    # First of all, so that what keeps it from starting is known before the work is done.
    served = Served(config.backbone, config.weights, config.source, config.triton_url)
    with started_server(config.out / "server", served) as address, Client(address) as client:
        with BarProgress(console) as progress:
            lessons, clip = _material(config, progress)
            backbone = load_backbone(config.backbone, config.weights)
            learned = learn(lessons, backbone, config.out / "packages", config.seed, progress)
        return _perform(config, client, learned, clip, console, start)


def _material(config: DemoConfig, progress: Progress) -> tuple[list[Lesson], Clip | None]:
    """The pictures to learn from and the clip, drawn where none were given."""
    if config.data:
        pairs = enumerate(zip(config.data, config.tasks, strict=True))
        lessons = [Lesson(folder, task, twice=place == 0) for place, (folder, task) in pairs]
    else:
        settings = PictureSettings(seed=config.seed)
        folders = write_pictures(config.out / "pictures", settings, _follow(progress, "drawing pictures"))
        lessons = [Lesson(folders.defect, "defect", twice=True), Lesson(folders.surface, "surface")]
    if config.clip or config.source:
        return lessons, None
    return lessons, write_clip(config.out, ClipSettings(seed=config.seed), _follow(progress, "filming the clip"))


def _perform(
    config: DemoConfig,
    client: Client,
    learned: Sequence[Learned],
    clip: Clip | None,
    console: Console,
    start: float,
) -> Outcome:
    for each in learned:
        client.register(each.versions[0].out, alias="live")
    footage = _footage(config, client, clip, [each.task for each in learned])
    swap = next((Swap(client, each.task, each.versions[1].out) for each in learned if len(each.versions) > 1), None)
    before = client.info().engine
    results = play(footage, swap, console)
    after = client.info().engine
    truth = clip.truth if clip and not config.data else None
    video = config.out / "demo.mp4"
    with BarProgress(console) as progress:
        write_video(video, footage, results, truth, progress)
    passes = (after.segment_rows[0] - before.segment_rows[0]) / max(after.frames - before.frames, 1)
    return summarise(
        results,
        footage.account(),
        truth,
        learned,
        times=swap.times if swap else None,
        trunk_passes=passes,
        seconds=time.perf_counter() - start,
        video=str(video),
    )


def _footage(config: DemoConfig, client: Client, clip: Clip | None, tasks: Sequence[str]) -> Footage:
    if config.source:
        return SourceFootage(client, config.source, tasks, config.seconds)
    path = config.clip or (clip.video if clip else None)
    if path is None:
        raise InvalidInputError("no video to show", field="clip", fix="give --clip FILE or --source URL")
    return ClipFootage(client, path, tasks)


def _follow(progress: Progress, label: str) -> Callable[[int, int], None]:
    """A callback (done, all) that draws a bar."""
    bar: Bar | None = None
    seen = 0

    def follow(done: int, total: int) -> None:
        nonlocal bar, seen
        bar = bar or progress.bar(label, total)
        bar.advance(done - seen)
        seen = done

    return follow


def _clear(out: Path) -> None:
    """Empty the folder of an earlier demo; raises InvalidInputError for a folder with anything else in it."""
    mark = out / MARK
    if out.exists() and any(out.iterdir()) and not mark.exists():
        fix = "give --out another folder"
        raise InvalidInputError("the folder holds something that no demo wrote", field="out", value=out, fix=fix)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    mark.touch()


def _account(outcome: Outcome) -> str:
    swap = f", swapped within {outcome.swap_ms:.0f} ms" if outcome.swap_ms is not None else ""
    frames = f"[bold]{outcome.frames}[/] frames decoded, {outcome.frames - outcome.lost} answered, "
    trunk = f"{outcome.trunk_passes_per_frame:.2f} trunk passes a frame for {len(outcome.results_per_task)} tasks"
    return f"{frames}[bold]{outcome.lost} lost[/]{swap}; {trunk}; {outcome.seconds:.0f} s\nvideo: {outcome.video}"
