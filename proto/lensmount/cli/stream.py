"""`lensmount stream`."""

from __future__ import annotations

import click

from lensmount.cli import options
from lensmount.cli.live import LiveTable
from lensmount.cli.output import console, print_json
from lensmount.client import Client
from lensmount.results import DropPolicy, StreamSummary
from lensmount.streams import Stream


@click.command(
    epilog=options.examples(
        "lensmount stream clip.mp4 --task defect --realtime",
        "lensmount stream clip.mp4 -t defect -t scene/1fps --json > results.jsonl",
    )
)
@click.argument("file")
@options.stream_tasks
@click.option("--name", default="", help="The stream's name in results and logs.")
@click.option("--realtime", is_flag=True, help="Send at the video's own pace, as a camera would.")
@options.drop_policy(DropPolicy.EVERY_FRAME)
@options.deadline
@options.priority
@options.server
@options.as_json
def stream(
    file: str,
    tasks: tuple[str, ...],
    name: str,
    realtime: bool,
    drop_policy: str,
    deadline_ms: int,
    priority: int,
    server: str,
    as_json: bool,
) -> None:
    """Send a video (H.264 or H.265) and follow its results.

    With --json: one line a result, and a last line with the server's account.
    """
    with (
        Client(server) as client,
        client.stream(
            file,
            tasks,
            name=name,
            drop_policy=drop_policy,
            realtime=realtime,
            deadline_ms=deadline_ms,
            priority=priority,
        ) as results,
    ):
        if as_json:
            _print_lines(results)
        else:
            _print_live(results)


def _print_lines(results: Stream) -> None:
    for result in results:
        print_json(result, kind="result")
    if results.summary:
        print_json(results.summary, kind="summary")


def _print_live(results: Stream) -> None:
    with LiveTable() as live:
        for result in results:
            live.add(result)
    if results.summary:
        console().print(_account(results.summary))


def _account(summary: StreamSummary) -> str:
    counts = f"{summary.received} sent, {summary.decoded} decoded, {summary.answered} answered"
    return f"{counts}, {summary.dropped.total} dropped"
