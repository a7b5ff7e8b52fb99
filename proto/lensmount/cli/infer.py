"""`lensmount infer`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from lensmount.cli import options
from lensmount.cli.output import console, print_json, table
from lensmount.client import Client
from lensmount.results import Result


@click.command(
    epilog=options.examples("lensmount infer part.jpg --task defect", "lensmount infer *.png -t defect -t scene --json")
)
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE…")
@options.tasks
@options.server
@options.as_json
def infer(pictures: tuple[str, ...], tasks: tuple[str, ...], server: str, as_json: bool) -> None:
    """Ask tasks about pictures."""
    with Client(server) as client:
        answers = ((picture, result) for picture in pictures for result in client.infer(picture, tasks))
        if as_json:
            for picture, result in answers:
                print_json(result, picture=picture)
        else:
            console().print(table("picture", "task", "version", "answer", "score", "ms", rows=_rows(answers)))


def _rows(answers: Iterator[tuple[str, Result]]) -> Iterator[tuple[object, ...]]:
    for picture, result in answers:
        answer = ", ".join(result.labels) or "-"
        yield picture, result.task, result.version, answer, f"{result.score:.2f}", f"{result.timings.total_ms:.1f}"
