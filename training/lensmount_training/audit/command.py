"""`lensmount audit`: look at pictures and labels before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import TypeAdapter, ValidationError
from rich.text import Text

from lensmount.cli import options
from lensmount.cli.output import console, table
from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import load_backbone
from lensmount_training.context import Context, default_cache
from lensmount_training.data.formats import ListingOptions, list_pictures
from lensmount_training.data.options import reading
from lensmount_training.data.reading import read
from lensmount_training.places import RUNS
from lensmount_training.progress import BarProgress

if TYPE_CHECKING:
    from lensmount_training.audit.auditing import Audit

EXAMPLES = options.examples(
    "lensmount audit parts",
    "lensmount audit parts --strict --json > audit.json   # in a pipeline: exit code 1 stops it",
    "lensmount audit parts --split runs/split-1a2b3c4d5e6f-seed0.json",
)
LAYOUTS = "train, validation and test, each a list of file names, as `lensmount train` writes it"
PARTS = ("train", "validation", "test")
STYLES = {"error": "red", "warning": "yellow", "note": "dim"}


@click.command("audit", epilog=EXAMPLES)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--backbone", default="tf_efficientnet_lite0", show_default=True, help="A name of timm's.")
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="Its weights as safetensors.")
@reading
@click.option("--split", type=click.Path(path_type=Path), metavar="FILE", help="Search a split for leaks, too (JSON).")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where the page goes [runs/audit-DATA].")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of folds and contact sheets.")
@click.option("--cache", type=click.Path(path_type=Path), metavar="DIR", help="Decoded pictures [the user's cache].")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@options.as_json
@click.pass_context
def audit(  # noqa: PLR0913 - one argument for each option
    ctx: click.Context,
    *,
    data: Path,
    backbone: str,
    weights: Path | None,
    format: str | None,  # noqa: A002 - click's name of --format
    group_by: str | None,
    every: float | None,
    margin: float | None,
    split: Path | None,
    out: Path | None,
    seed: int,
    cache: Path | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Look for what spoils a training: wrong labels, duplicates, leaks, dark, blurred and odd pictures, few pictures.

    The page audit.html shows what was found and contact sheets of every class; audit.json has the same for programs. An
    earlier audit in that folder is replaced. Exit code 1 when something must be looked at before training: leaks, more
    than 5 % of the labels probably wrong, a class under 20 pictures, more than 20 % duplicates.
    """
    # cleanlab and cleanvision take two seconds to import; `--help` must not.
    from lensmount_training.audit import auditing, page, writing  # noqa: PLC0415

    target = out or RUNS / f"audit-{data.resolve().stem}"
    writing.check_out(target)
    parts = _read_split(split) if split else None
    with BarProgress(console(stderr=True)) as progress:
        context = Context(progress=progress, cache=cache or default_cache())
        loaded = load_backbone(backbone, weights)
        listing = list_pictures(data, ListingOptions(format, group_by, 1.0 if every is None else every, margin or 0.0))
        dataset = read(listing, loaded.preprocessing, context.cache, progress)
        found = auditing.audit(dataset, loaded, context, parts, seed=seed)
        html = page.page(found, dataset, context)
    text = writing.encoded(writing.document(found, strict=strict))
    writing.write(target, html, text)
    if as_json:
        click.echo(text)
    else:
        _print(found, page.headline(found), target / writing.PAGE)
    ctx.exit(found.exit_code(strict=strict))


def _read_split(path: Path) -> dict[str, list[str]]:
    """File names by part."""
    fix = f"give a JSON object with {LAYOUTS}"
    try:
        document = TypeAdapter(dict[str, object]).validate_json(path.read_bytes())
        split = {part: document[part] for part in PARTS if part in document}
        parts = TypeAdapter(dict[str, list[str]]).validate_python(split, strict=True)
    except OSError as error:
        raise InvalidInputError(error.strerror or str(error), field="split", value=path, fix=fix) from error
    except ValidationError as error:
        raise InvalidInputError("not a split file", field="split", value=path, fix=fix) from error
    if len(parts) < 2:
        raise InvalidInputError("it has fewer than two parts", field="split", value=path, fix=fix)
    return parts


def _print(found: Audit, headline: str, page: Path) -> None:
    shown = console()
    rows = ((Text(own.level, STYLES[own.level]), own.kind, _printable(own.text)) for own in found.findings)
    shown.print(table("", "what", "found", rows=rows))
    for sentence in found.advice:
        shown.print(Text(f"· {_printable(sentence)}"))
    shown.print(Text(f"\n{headline}", "bold"))
    shown.print(Text(f"Page: {page}"), soft_wrap=True)


def _printable(text: str) -> str:
    """File names that are no text, as their escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
