"""`lensmount watch`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lensmount.cli import options
from lensmount.cli.live import LiveTable
from lensmount.cli.output import print_json
from lensmount.client import Client
from lensmount.errors import InvalidInputError, MissingExtraError
from lensmount.results import Result
from lensmount.sources import Source, SourceState
from lensmount.streams import Watch

if TYPE_CHECKING:
    from lensmount.recording import Recorder

_OVER = (SourceState.ENDED, SourceState.FAILED)
# The server keeps the picture of each result that waits for a recorder: some megabytes each.
_WAITING = 32


@click.command(
    epilog=options.examples(
        "lensmount watch",
        "lensmount watch line-1 line-2 --task defect --json",
        "lensmount watch line-1 --save line-1.mp4",
        "lensmount watch line-1 --save ten-seconds.mp4 --seconds 10",
    )
)
@click.argument("sources", nargs=-1, metavar="[SOURCE…]")
@options.some_tasks
@click.option(
    "--save",
    metavar="FILE.mp4",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the frames with their answers to this video, one source a file.",
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="End after so many seconds.")
@options.server
@options.as_json
def watch(
    sources: tuple[str, ...],
    tasks: tuple[str, ...],
    save: Path | None,
    seconds: float | None,
    server: str,
    as_json: bool,
) -> None:
    """Follow the results of sources; of all when none is named.

    It ends with Ctrl-C or after --seconds. With --save it ends too when the source does; what was written plays
    however it ended.

    With --json: one line a result ("kind": "result") or change of a source ("kind": "source").
    """
    with ExitStack() as stack:
        client = stack.enter_context(Client(server))
        recorder = _recorder(client, save, sources, tasks) if save else None
        if recorder:
            stack.callback(_tell, recorder)
            stack.enter_context(recorder)
        queue_size = _WAITING if recorder else 0
        items = client.watch(sources, tasks, with_jpeg=recorder is not None, queue_size=queue_size)
        stack.enter_context(items)
        stack.enter_context(_ending(items, seconds))
        show = _print_line if as_json else stack.enter_context(LiveTable()).add
        for item in items:
            show(item)
            if recorder and _record(recorder, item):
                break
    if items.lost:
        click.echo(f"{items.lost} results were lost: this reader was too slow.", err=True)


def _record(recorder: Recorder, item: Result | Source) -> bool:
    """Takes an item in; whether the last one came."""
    if isinstance(item, Source):
        return item.state in _OVER
    recorder.add(item)
    return False


def _print_line(item: Result | Source) -> None:
    print_json(item, kind="result" if isinstance(item, Result) else "source")


def _recorder(client: Client, path: Path, sources: Sequence[str], tasks: Sequence[str]) -> Recorder:
    """For the one source that is watched; what is wrong with the file or the source is said before anything is made."""
    try:
        from lensmount.recording import Recorder, check_path  # noqa: PLC0415 - an extra: only those who save need it
    except ModuleNotFoundError as error:
        message = "saving video needs the extra 'video'"
        raise MissingExtraError(message, field="save", fix="pip install 'lensmount[video]'") from error
    if len(sources) != 1:
        fix = "name one source, and run `lensmount watch` once for each file"
        raise InvalidInputError("one source a file", field="save", value=f"{len(sources)} sources", fix=fix)
    check_path(path)
    source = client.source(sources[0])
    if source.state in _OVER:
        reason = f": {source.reason}" if source.reason else ""
        fix = "remove it and add it again; with --loop a file starts again at its end"
        raise InvalidInputError(f"{source.name} has {source.state}{reason}", field="save", value=path, fix=fix)
    return Recorder(path, cards=sum(not tasks or ref.task in tasks for ref in source.tasks))


def _tell(recorder: Recorder) -> None:
    click.echo(f"{recorder.path}: {recorder.frames} frames, {recorder.seconds:.1f} s", err=True)


@contextmanager
def _ending(items: Watch, seconds: float | None) -> Iterator[None]:
    """Ends a subscription after so many seconds."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, items.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
