from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import grpc
import pytest
from click.testing import Result
from PIL import Image

from lensmount import errors
from lensmount.v1 import common_pb2, sources_pb2

if TYPE_CHECKING:
    from proto.conftest import WireDouble

Run = Callable[..., Result]
Watched = sources_pb2.WatchResultsResponse
LIVE, ENDED, FAILED = (sources_pb2.SourceState.Value(f"SOURCE_STATE_{each}") for each in ("LIVE", "ENDED", "FAILED"))


def source(state: sources_pb2.SourceState.ValueType, reason: str = "") -> sources_pb2.Source:
    tasks = [common_pb2.TaskRef(task="defect"), common_pb2.TaskRef(task="scene")]
    config = sources_pb2.SourceConfig(name="line-1", tasks=tasks)
    return sources_pb2.Source(config=config, state=state, reason=reason)


@pytest.fixture(autouse=True)
def live(double: WireDouble) -> None:
    double.answers["GetSource"] = lambda *_: source(LIVE)


@pytest.fixture
def frames(result_message: Callable[..., Any]) -> Callable[[int], Iterator[Watched]]:
    """So many frames with the answers of two tasks."""
    file = io.BytesIO()
    Image.new("RGB", (320, 240), (40, 160, 60)).save(file, "JPEG")

    def frames(count: int) -> Iterator[Watched]:
        for index in range(count):
            for task in ("defect", "scene"):
                told = {"source": "line-1", "pts_ns": index * 40_000_000, "jpeg": file.getvalue()}
                yield Watched(result=result_message(task, index, **told))

    return frames


def length(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_file_is_saved_until_its_source_ends(double: WireDouble, run: Run, frames: Any, tmp_path: Path) -> None:
    def answer(_: object, context: Any) -> Iterator[Watched]:
        yield from frames(12)
        yield Watched(source=source(ENDED))
        while context.is_active():
            time.sleep(0.05)

    double.answers["WatchResults"] = answer
    done = run("watch", "line-1", "--save", tmp_path / "a.mp4")
    assert done.exit_code == 0, done.output
    assert "12 frames, 0.4 s" in done.stderr
    assert "line-1: ended" in done.stdout
    assert length(tmp_path / "a.mp4") == 12
    (request,) = double.asked["WatchResults"]
    assert (request.with_jpeg, request.queue_size) == (True, 32)


def test_lines_are_printed_while_it_is_saved(double: WireDouble, run: Run, frames: Any, tmp_path: Path) -> None:
    double.answers["WatchResults"] = lambda *_: frames(3)
    done = run("watch", "line-1", "--save", tmp_path / "a.mp4", "--json")
    assert [json.loads(line)["frame_index"] for line in done.stdout.splitlines()] == [0, 0, 1, 1, 2, 2]
    assert length(tmp_path / "a.mp4") == 3


def test_what_was_saved_plays_when_the_server_dies(double: WireDouble, run: Run, frames: Any, tmp_path: Path) -> None:
    def answer(_: object, context: Any) -> Iterator[Watched]:
        yield from frames(7)
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    double.answers["WatchResults"] = answer
    done = run("watch", "line-1", "--save", tmp_path / "a.mp4")
    assert done.exit_code == 4
    assert length(tmp_path / "a.mp4") == 7


def test_what_was_saved_plays_after_ctrl_c(double: WireDouble, frames: Any, tmp_path: Path) -> None:
    def answer(_: object, context: Any) -> Iterator[Watched]:
        yield from frames(9)
        while context.is_active():
            time.sleep(0.05)

    double.answers["WatchResults"] = answer
    program = [sys.executable, "-m", "lensmount", "watch", "line-1", "--server", double.address, "--json"]
    with subprocess.Popen(
        [*program, "--save", str(tmp_path / "a.mp4")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        for _ in range(18):
            process.stdout.readline()
        time.sleep(0.5)  # it waits for more
        os.kill(process.pid, signal.SIGINT)
        assert "9 frames, 0.3 s" in process.stderr.read()
        assert process.wait(60) == 130
    assert length(tmp_path / "a.mp4") == 9


def test_it_ends_after_some_seconds(double: WireDouble, run: Run, frames: Any) -> None:
    def answer(_: object, context: Any) -> Iterator[Watched]:
        yield from frames(1)
        while context.is_active():
            time.sleep(0.05)

    double.answers["WatchResults"] = answer
    began = time.monotonic()
    done = run("watch", "--seconds", "0.5")
    assert done.exit_code == 0
    assert 0.5 <= time.monotonic() - began < 30
    assert "scratch" in done.stdout
    assert not double.asked["WatchResults"][0].with_jpeg


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ((), "name one source"),
        (("line-1", "line-2"), "name one source"),
        (("line-1", "--save", "a.avi"), "a.mp4"),
        (("line-1", "--save", "gone/a.mp4"), "make the folder"),
    ],
)
def test_what_can_not_be_saved(
    arguments: tuple[str, ...], advice: str, double: WireDouble, run: Run, tmp_path: Path
) -> None:
    done = run("watch", "--save", tmp_path / "a.mp4", *arguments)
    assert done.exit_code == 2
    assert advice in done.stderr
    assert not double.asked


def test_a_source_that_is_over_has_nothing_to_save(double: WireDouble, run: Run, tmp_path: Path) -> None:
    double.answers["GetSource"] = lambda *_: source(FAILED, "no route to the camera")
    done = run("watch", "line-1", "--save", tmp_path / "a.mp4")
    assert done.exit_code == 2
    assert "line-1 has failed: no route to the camera" in done.stderr
    double.fail("GetSource", errors.NotFoundError("no such source", field="name", value="line-1"))
    assert run("watch", "line-1", "--save", tmp_path / "a.mp4").exit_code == 3
    assert not double.asked["WatchResults"]


def test_saving_says_which_extra_is_missing(double: WireDouble, tmp_path: Path) -> None:
    program = "import sys; sys.modules['PIL'] = None; from lensmount.cli import main; main()"
    arguments = ("watch", "line-1", "--save", str(tmp_path / "a.mp4"), "--server", double.address)
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 4
    assert "pip install 'lensmount[video]'" in done.stderr


def test_the_table_tells_what_was_dropped_and_repeated(double: WireDouble, run: Run, result_message: Any) -> None:
    def answer(*_: object) -> Iterator[Watched]:
        timings = common_pb2.Timings(total_ms=42.25)
        drops = common_pb2.Drops(superseded=3, rate=2)
        yield Watched(result=result_message(source="line-1", dropped_before=drops, timings=timings))
        yield Watched(result=result_message("scene", source="line-1", reused=True))

    double.answers["WatchResults"] = answer
    lines = [re.split(r"\s{2,}", line.strip()) for line in run("watch").stdout.splitlines()]
    assert lines == [
        ["source", "task", "version", "frame", "answer", "score", "fps", "age ms", "dropped before", "results"],
        ["line-1", "defect", "2", "0", "scratch", "0.75", "0.0", "42.2", "3 superseded, 2 rate", "1"],
        ["line-1", "scene", "2", "0", "scratch REUSED", "0.75", "0.0", "0.0", "-", "1"],
    ]
