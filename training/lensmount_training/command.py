"""`lensmount train`: a folder of pictures in, an adapter package out."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from lensmount_adapters.backbones import load_backbone
from lensmount_training import workflow
from lensmount_training.progress import BarProgress
from lensmount_training.report import as_json, print_report
from lensmount_training.strategies import FeatureExtraction, Lora, Strategy
from lensmount_training.strategies.descent import Schedule

EPOCHS_HELP = f"lora; small sets get more, for {Schedule.least_steps} steps."

EXAMPLE = """Train an adapter on FOLDER: one sub-folder of pictures for each class.

\b
    parts/ok/0001.jpg          lensmount train parts --task defect
    parts/scratch/0001.jpg     lensmount train parts --task defect --strategy lora

"features" trains a head on the frozen backbone, in seconds, and costs the server next to
nothing. "lora" also edits the last segments: minutes, and better where the backbone's
pictures and yours differ. A fifth of the pictures is kept sealed for the figures at the
end. The package goes to runs/TASK; `lensmount register runs/TASK` brings it to a server.
"""


@click.command("train", help=EXAMPLE)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--task", required=True, metavar="NAME", help="The name that clients ask for.")
@click.option("--strategy", type=click.Choice(["features", "lora"]), default="features", show_default=True)
@click.option("--backbone", default="tf_efficientnet_lite0", show_default=True, help="A name of timm's.")
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="Its weights as safetensors.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where the package goes [runs/TASK].")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Decides split and training.")
@click.option("--views", metavar="LIST", help="Turns and flips that leave a picture's class alone [identity,hflip].")
@click.option("--last-segments", type=click.IntRange(min=1), help="lora: how many segments to edit [half].")
@click.option("--rank", default=Lora.rank, show_default=True, type=click.IntRange(min=1), help="lora: rank.")
@click.option("--epochs", default=Schedule.epochs, show_default=True, type=click.IntRange(min=1), help=EPOCHS_HELP)
@click.option("--learning-rate", default=Schedule.learning_rate, show_default=True, help="lora.")
@click.option("--json", "as_object", is_flag=True, help="The last line is one JSON object.")
def train(  # noqa: PLR0913 one argument for each option
    folder: Path,
    *,
    task: str,
    strategy: str,
    backbone: str,
    weights: Path | None,
    out: Path | None,
    seed: int,
    views: str | None,
    last_segments: int | None,
    rank: int,
    epochs: int,
    learning_rate: float,
    as_object: bool,
) -> None:
    """Run the workflow and show what came of it."""
    seen = tuple(views.split(",")) if views else ("identity", "hflip")
    chosen: Strategy = FeatureExtraction(seen)
    if strategy == "lora":
        schedule = Schedule(epochs=epochs, learning_rate=learning_rate)
        chosen = Lora(rank=rank, alpha=2.0 * rank, last_segments=last_segments, views=seen, schedule=schedule)
    with BarProgress(Console(stderr=True)) as progress:
        run = workflow.train(folder, task, chosen, load_backbone(backbone, weights), out, seed, progress)
    print_report(run, Console())
    if as_object:
        click.echo(json.dumps(as_json(run)))
