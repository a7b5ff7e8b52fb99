"""`lensmount bench train`: training beside what people write today."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import click
from rich.console import Console

from lensmount.cli import options
from lensmount_training.bench.case import CASES
from lensmount_training.progress import BarProgress

PATH = click.Path(path_type=Path)
WIDTH = 160


@click.command("train")
@click.option("--cases", default=",".join(CASES), show_default=True, metavar="LIST", help="Which, with commas.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 1000), help="Runs of each side.")
@click.option(
    "--data", type=PATH, metavar="FOLDER", help="Pictures, a folder a label [crops of scikit-image's photographs]."
)
@click.option(
    "--pictures", default=480, show_default=True, type=click.IntRange(40, 100_000), help="For the first four cases."
)
@click.option("--backbone", default="tf_efficientnet_lite0", show_default=True, metavar="NAME", help="timm's name.")
@click.option("--weights", type=PATH, metavar="FILE", help="Its weights as safetensors.")
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Computing threads; 0: one a core.")
@options.as_json
def train(  # noqa: PLR0913 - one for each option
    *,
    cases: str,
    rounds: int,
    data: Path | None,
    pictures: int,
    backbone: str,
    weights: Path | None,
    threads: int,
    as_json: bool,
) -> None:
    """What training costs here, beside the loops that people write today, both sides in turns (a quarter of an hour).

    \b
        probe        10 epochs of a head on frozen features, beside a DataLoader and a frozen timm model
        probe_again  the same with what the first run cached
        tail         the last two blocks, beside a DataLoader and the whole model
        lora_step    a step of LoRA beside PEFT on timm: time and peak memory
        new_task     100 pictures to a live answer of a running server, in seconds
        audit        2,000 pictures, in seconds

    Both sides see the same pictures in the same number of epochs; what accuracy each reaches stands beside its time.
    """  # noqa: D301 - click wants the control character
    names = options.chosen(cases, CASES, "cases")
    from lensmount_adapters.backbones import load_backbone  # noqa: PLC0415 - torch takes seconds
    from lensmount_training.bench.material import Source  # noqa: PLC0415
    from lensmount_training.bench.running import measure  # noqa: PLC0415
    from lensmount_training.bench.setting import Setting  # noqa: PLC0415
    from lensmount_training.bench.table import sentences, table_of  # noqa: PLC0415

    with (
        tempfile.TemporaryDirectory(prefix="lensmount-bench-") as folder,
        BarProgress(Console(stderr=True)) as progress,
    ):
        scratch = Path(folder)
        source = Source.of(data) if data else Source.photographs(scratch / "photographs")
        setting = Setting(load_backbone(backbone, weights), weights, source, pictures, scratch, rounds)
        report = measure(setting, names, threads or len(os.sched_getaffinity(0)), progress)
    if as_json:
        click.echo(json.dumps(report.as_object()))
        return
    console = Console(width=None if Console().is_terminal else WIDTH)
    console.print(table_of(report))
    for sentence in sentences(report):
        console.print(sentence, style="dim", highlight=False)
