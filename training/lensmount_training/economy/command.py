"""`lensmount bench labels`: how many labels are worth it, and with which strategy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.markdown import Markdown

from lensmount.cli import options
from lensmount_adapters.backbones import load_backbone
from lensmount_adapters.backbones.default import BUNDLED
from lensmount_training.context import Context, default_cache
from lensmount_training.data.formats import ListingOptions, list_pictures
from lensmount_training.data.reading import read
from lensmount_training.economy.cells import Cell, Measured, Results
from lensmount_training.economy.material import at_size, material_of
from lensmount_training.economy.measuring import LABELS, STRATEGIES, cells_of, measure
from lensmount_training.economy.page import WORDS, grids, markdown, plot
from lensmount_training.progress import BarProgress

PATH = click.Path(path_type=Path)
TITLE = "Label economy"
# As a shell has it after Ctrl-C.
INTERRUPTED = 130


@click.command("labels")
@click.argument("data", nargs=-1, required=True, type=PATH)
@click.option("--backbone", default=BUNDLED, show_default=True, metavar="NAME", help="timm's name.")
@click.option("--weights", type=PATH, metavar="FILE", help="Its weights as safetensors.")
@click.option("--size", type=click.IntRange(32, 1024), help="Pixels a side, for speed [the backbone's own].")
@click.option("--labels", default=",".join(map(str, LABELS)), show_default=True, help="A class; 0 for all.")
@click.option("--strategies", default=",".join(STRATEGIES), show_default=True)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1, 100))
@click.option("--results", type=PATH, default=Path("label-economy.jsonl"), show_default=True, help="Goes on from it.")
@click.option("--page", type=PATH, metavar="FILE", help="Write a Markdown page, its pictures in images/ beside it.")
@options.as_json
def labels(  # noqa: PLR0913 - one for each option
    data: tuple[Path, ...],
    *,
    backbone: str,
    weights: Path | None,
    size: int | None,
    labels: str,
    strategies: str,
    seeds: int,
    results: Path,
    page: Path | None,
    as_json: bool,
) -> None:
    """Train every strategy with more and more labels of each class, on your own pictures (hours; it can be stopped).

    \b
        lensmount bench labels parts --strategies features,lora --labels 5,10,25,0
    """  # noqa: D301 - click wants the control character
    own = load_backbone(backbone, weights)
    own = at_size(own, size) if size else own
    known = Results(results)
    with BarProgress(Console(stderr=True)) as progress:
        context = Context(progress)
        listings = [list_pictures(path, ListingOptions()) for path in data]
        materials = [material_of(read(each, own.preprocessing, default_cache(), progress)) for each in listings]
        cells = cells_of(materials, strategies.split(","), [int(count) for count in labels.split(",")], seeds)
        with suppress(KeyboardInterrupt):  # what is measured by then is shown, and said to be a part
            measure(cells, {each.name: each for each in materials}, own, known, context)
    measured = {cell: known.measured[cell] for cell in cells if cell in known.measured}
    text = markdown(grids(measured), TITLE, _how(own.name, own.preprocessing.size, data, cells, measured))
    if page:
        _write(page, text, measured)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in measured.values()]))
    else:
        Console().print(Markdown(text))
    if len(measured) < len(cells):
        raise SystemExit(INTERRUPTED)


def _write(page: Path, text: str, measured: Mapping[Cell, Measured]) -> None:
    (page.parent / "images").mkdir(parents=True, exist_ok=True)
    for grid in grids(measured):
        plot(grid, page.parent / "images" / f"label-economy-{grid.data}.png")
    page.write_text(text)


def _how(
    backbone: str, size: str, data: tuple[Path, ...], cells: Sequence[Cell], measured: Mapping[Cell, Measured]
) -> str:
    names = " ".join(path.name for path in data)
    seeds = max(cell.seed for cell in cells) + 1
    how = (
        f"Means of {seeds} seeds with 95 % intervals (Student's t), on the same test pictures for all; a fifth of the "
        f"labels is kept to choose by. {backbone} at {size} pixels. Made by `lensmount bench labels {names}`."
    )
    return how if len(measured) == len(cells) else f"{how}\n\n{_part(cells, measured)}"


def _part(cells: Sequence[Cell], measured: Mapping[Cell, Measured]) -> str:
    """Which strategies have fewer seeds than the others, so far."""
    missing = dict.fromkeys(cell.strategy for cell in cells if cell not in measured)
    least = {name: min(_seeds(cells, measured, name).values()) for name in missing}
    told = ", ".join(f"{WORDS[name]} {count}" for name, count in least.items())
    return (
        f"**So far {len(measured)} of {len(cells)} trainings were measured**; whole seeds of those that are behind: "
        f"{told}. The same command goes on with them."
    )


def _seeds(cells: Sequence[Cell], measured: Mapping[Cell, Measured], strategy: str) -> Counter[tuple[str, int]]:
    """By data and labels, how many seeds of a strategy there are."""
    counts = Counter({(cell.data, cell.labels): 0 for cell in cells if cell.strategy == strategy})
    counts.update((cell.data, cell.labels) for cell in measured if cell.strategy == strategy)
    return counts
