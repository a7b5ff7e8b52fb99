"""Sources for people: the table of all of them, and everything of one."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from lensmount.cli.output import lost, table
from lensmount.sources import WHOLE, DecodeEffort, Source, SourceState

_COLOURS = {
    SourceState.CONNECTING: "yellow",
    SourceState.LIVE: "green",
    SourceState.STALLED: "yellow",
    SourceState.RECONNECTING: "yellow",
    SourceState.PAUSED: "cyan",
    SourceState.FAILED: "red",
    SourceState.ENDED: "blue",
}
_DECODED = {
    DecodeEffort.AUTO: "the pictures that rates need",
    DecodeEffort.ALL: "all pictures",
    DecodeEffort.REFERENCE: "pictures that others refer to",
    DecodeEffort.KEY: "key pictures only",
}


def source_table(found: Iterable[Source]) -> Table:
    """One line a source; states have colours on a terminal."""
    columns = ("name", "state", "fps", "size", "codec", "answered", "dropped", "tasks")
    return table(*columns, rows=(_row(source) for source in found))


def source_facts(source: Source) -> dict[str, object]:
    """What it was told, its state and its account."""
    return {
        "name": source.name,
        "url": source.url,
        "state": _state(source),
        "tasks": ", ".join(map(str, source.tasks)),
        "frames that come too fast": _policy(source),
        "terms": f"{_deadline(source.deadline_ms)}, priority {source.priority}",
        "reading": f"{source.pace}, RTSP over {source.transport.upper()}, decodes {_DECODED[source.decode_effort]}",
        "looked at": _view(source),
        "motion gate": _gate(source),
        "tried again after": f"{source.reconnect_first_ms:,} to {source.reconnect_longest_ms:,} ms",
        "picture": f"{_size(source)}, {source.codec or 'codec not known yet'}, {source.fps:.1f} frames a second",
        "frames": f"{source.decoded:,} decoded, {source.answered:,} answered, {source.dropped.total:,} dropped",
        "dropped": lost(source.dropped),
        "packets not decoded": f"{source.skipped:,}",
        "connections": f"{source.connections:,}, {source.crashes:,} readers crashed",
        "last frame": _time(source.last_frame_time_ns),
    }


def _row(source: Source) -> tuple[object, ...]:
    state = Text(source.state, _COLOURS.get(source.state, ""))
    tasks = ", ".join(map(str, source.tasks))
    picture = (_size(source), source.codec or "-")
    return source.name, state, f"{source.fps:.1f}", *picture, f"{source.answered:,}", lost(source.dropped), tasks


def _state(source: Source) -> Text:
    since = f" since {_time(source.state_time_ns)}" if source.state_time_ns else ""
    reason = f": {source.reason}" if source.reason else ""
    return Text.assemble((source.state, _COLOURS.get(source.state, "")), since, reason)


def _policy(source: Source) -> str:
    looped = ", looped" if source.loop else ""
    return f"{source.drop_policy}, a queue of {source.queue_size or 'the usual size'}{looped}"


def _deadline(deadline_ms: int) -> str:
    return f"within {deadline_ms} ms" if deadline_ms else "no deadline"


def _view(source: Source) -> str:
    turned = f", turned by {source.rotation}° clockwise" if source.rotation else ""
    if source.region == WHOLE:
        return f"all of the picture{turned}"
    return "left {:g}, top {:g}, width {:g}, height {:g} of the picture".format(*source.region) + turned


def _gate(source: Source) -> str:
    if not source.gate:
        return "none"
    return f"answers again when {source.gate:.2%} of the picture changes, or after {source.gate_refresh_ms:,} ms"


def _size(source: Source) -> str:
    return f"{source.width}×{source.height}" if source.width else "-"


def _time(time_ns: int) -> str:
    if not time_ns:
        return "none yet"
    return datetime.fromtimestamp(time_ns / 1e9, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
