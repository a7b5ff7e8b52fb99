"""`lensmount train`: a data set in, an adapter package out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from lensmount.cli import options
from lensmount.errors import InvalidInputError
from lensmount_training.data.options import reading
from lensmount_training.progress import BarProgress
from lensmount_training.recipe import Recipe, make_recipe, read_recipe

T = TypeVar("T", bound=Callable[..., Any])
NOT_REACHED = 1
LAST = "How many last segments are edited; auto: by accuracy and cost [half; lora with --strategy auto: auto]."
RANK = "lora: rank, 1 to 256 [4, 8 and 16 are tried, by validation; 8 with --strategy auto]."
PATH = click.Path(path_type=Path)

EXAMPLES = options.examples(
    "lensmount train parts --task defect                       the strategy that fits the data",
    "lensmount train parts --task defect --dry-run             what it would do, and how long",
    "lensmount train parts --task defect --strategy lora --last auto",
    "lensmount train labels.csv --task grade --group-by 'cam\\d+' --require-recall crack=0.98",
    "lensmount train --recipe runs/defect.run/recipe.yaml      the same run again",
)


def _data(command: T) -> T:
    return _with(
        command,
        click.argument("data", type=PATH, required=False),
        click.option("--task", metavar="NAME", help="The name that clients ask for."),
        reading,
        click.option("--no-audit", "audit", flag_value=False, default=None, help="Do not look at the data first."),
    )


def _model(command: T) -> T:
    return _with(
        command,
        click.option("--backbone", metavar="NAME", help="timm's name; auto: efficientnet_b4 [auto]."),
        click.option("--weights", type=PATH, metavar="FILE", help="Its weights as safetensors."),
        click.option(
            "--strategy",
            type=click.Choice(["auto", "features", "finetune", "lora"]),
            help="auto: proposed from the data, decided by measurement [auto].",
        ),
        click.option("--head", type=click.Choice(["probe", "dropout"]), help="features: solved, or trained [probe]."),
        click.option("--dropout", type=float, metavar="SHARE", help="features: of the trained head [0.3]."),
        click.option("--last", metavar="N", help=LAST),
        click.option("--rank", metavar="N", help=RANK),
        click.option(
            "--alpha", type=float, metavar="N", help="lora: edits are scaled by alpha / rank [twice the rank]."
        ),
        click.option("--targets", metavar="WHICH", help="lora: all-linear, qkv, q+v or convolutions [all-linear]."),
        click.option("--full", is_flag=True, default=None, help="finetune: all segments at once."),
        click.option("--as-lora", is_flag=True, default=None, help="finetune: give the result as LoRA, by SVD."),
        click.option("--batch-norm", is_flag=True, default=None, help="finetune: let BatchNorm statistics move."),
    )


def _descent(command: T) -> T:
    return _with(
        command,
        click.option("--epochs", type=int, metavar="N", help="8, or 10 for a head; small sets get more steps."),
        click.option(
            "--batch", type=int, metavar="N", help="Pictures a step; they need not fit into memory at once [32]."
        ),
        click.option("--learning-rate", type=float, metavar="RATE", help="Of the head, and of LoRA."),
        click.option("--backbone-rate", type=float, metavar="RATE", help="finetune: of unfrozen blocks."),
        click.option("--layer-decay", type=float, metavar="SHARE", help="finetune: of the rate, block by block."),
        click.option("--warmup", type=float, metavar="SHARE", help="Of the steps, until the rates are reached [0.1]."),
        click.option("--weight-decay", type=float, metavar="RATE", help="AdamW's [0.01]."),
        click.option("--class-weights/--no-class-weights", default=None, help="Rare classes count as much [they do]."),
        click.option("--views", metavar="LIST", help="Turns and flips that leave a class alone [identity,hflip]."),
        click.option("--label-smoothing", type=float, metavar="SHARE"),
        click.option("--mixup", type=float, metavar="ALPHA", help="From pixels: nothing can be cached then."),
        click.option("--cutmix", type=float, metavar="ALPHA", help="So it is here."),
        click.option("--randaugment", type=int, metavar="N", help="And here: magnitude, 1 to 30."),
        click.option("--patience", type=int, metavar="N", help="Stop after so many epochs without gain [never]."),
        click.option("--bf16/--fp32", default=None, help="Mixed precision [bf16 on a GPU]."),
        click.option("--ema", type=float, metavar="DECAY", help="Keep averaged weights, for example 0.99."),
    )


def _run(command: T) -> T:
    return _with(
        command,
        click.option(
            "--require-recall",
            multiple=True,
            metavar="LABEL=SHARE",
            help="Thresholds are chosen to find this share of a class; the server holds the package to it.",
        ),
        click.option("--seed", type=int, metavar="N", help="Decides split and training [0]."),
        click.option("--recipe", type=PATH, metavar="FILE", help="A recipe.yaml; options change it."),
        click.option("--out", type=PATH, metavar="DIR", help="Where the package goes [runs/TASK]."),
        click.option("--cache", type=PATH, metavar="DIR", help="Decoded pictures and activations."),
        click.option("--fresh", is_flag=True, help="Forget an unfinished run."),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and how long it would take."),
        click.option("--mlflow", metavar="URI", help="Record the run there too."),
        options.as_json,
    )


def _with(command: T, *added: Callable[[Any], Any]) -> T:
    for option in reversed(added):
        command = option(command)
    return command


@click.command("train", epilog=EXAMPLES)
@_data
@_model
@_descent
@_run
def train(
    *,
    recipe: Path | None,
    out: Path | None,
    cache: Path | None,
    fresh: bool,
    dry_run: bool,
    mlflow: str | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Train an adapter on DATA: a folder of pictures for each class, or another format that people have.

    \b
        parts/ok/0001.jpg
        parts/scratch/0001.jpg

    The data are audited, a fifth is sealed, and a head on the frozen backbone is trained: the floor. Where the data
    call for it, the last blocks are unfrozen or edited with LoRA, and kept only if that beats the floor by more than
    the noise. The sealed pictures are looked at once, at the end. The package goes to runs/TASK, the report, the
    audit and the logs to runs/TASK.run; a run that was killed goes on with the same command. The exit code is 1 when a
    recall that is required is not reached on the sealed pictures: a server will refuse the package.
    """  # noqa: D301 - click wants the control character
    asked = _recipe(recipe, chosen)
    from lensmount_training.logs import check_mlflow, to_mlflow  # noqa: PLC0415
    from lensmount_training.processes import current  # noqa: PLC0415
    from lensmount_training.report import as_object, print_report  # noqa: PLC0415 - torch takes seconds
    from lensmount_training.workflow import train as run_recipe  # noqa: PLC0415
    from lensmount_training.workflow import train_beside  # noqa: PLC0415

    if mlflow:
        check_mlflow()
    if current().rank:
        if not dry_run:  # the first plans alone
            train_beside(asked, cache=cache)
        return
    with BarProgress(Console(stderr=True)) as progress:
        if dry_run:
            from lensmount_training.plan import plan_of, show  # noqa: PLC0415

            plan = plan_of(asked, out, progress, fresh=fresh)
            show(plan, Console(), as_json=as_json)
            return
        run = run_recipe(asked, out, progress, cache=cache, fresh=fresh)
    if as_json:
        click.echo(json.dumps(as_object(run)))
    else:
        print_report(run, Console())
    if mlflow:
        to_mlflow(mlflow, run.recipe, run.manifest.metrics, run.out, run.report)
    if not run.holds:
        raise SystemExit(NOT_REACHED)


def _recipe(file: Path | None, chosen: dict[str, Any]) -> Recipe:
    """The recipe of a file, changed by the options that were given."""
    given = {name: value for name, value in chosen.items() if value is not None and value != ()}
    for name in ("last", "rank"):
        if name in given:
            given[name] = int(given[name]) if given[name].isdigit() else given[name]
    if "views" in given:
        given["views"] = tuple(given["views"].split(","))
    if "require_recall" in given:
        given["require_recall"] = dict(map(_required, given["require_recall"]))
    known = read_recipe(file).model_dump(exclude_unset=True) if file else {}
    values = {**known, **given}
    for name, fix in (("data", "give the folder of your pictures"), ("task", "give --task NAME, such as defect")):
        if name not in values:
            raise InvalidInputError("missing", field=name, fix=fix)
    return make_recipe(values)


def _required(text: str) -> tuple[str, float]:
    label, _, number = text.rpartition("=")
    try:
        return label, float(number)
    except ValueError as error:
        fix = "give LABEL=SHARE, for example crack=0.98"
        raise InvalidInputError("not a required recall", field="require_recall", value=text, fix=fix) from error
