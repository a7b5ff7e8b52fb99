from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import Result
from rich.console import Console

from lensmount import source_convert
from lensmount.cli.source_view import source_table
from lensmount.v1 import common_pb2, sources_pb2

if TYPE_CHECKING:
    from proto.conftest import WireDouble

Run = Callable[..., Result]

SOURCE = sources_pb2.Source(
    config=sources_pb2.SourceConfig(
        name="line-1",
        url="rtsp://user:***@camera/1",
        tasks=[common_pb2.TaskRef(task="defect"), common_pb2.TaskRef(task="scene", max_fps=1)],
        rotation=90,
        region=sources_pb2.Region(left=0.25, top=0.5, width=0.75, height=0.5),
        gate=sources_pb2.MotionGate(change=0.01, refresh_ms=5_000),
        reconnect=sources_pb2.Reconnect(first_ms=250, longest_ms=2_000),
        decode_effort=sources_pb2.DECODE_EFFORT_KEY,
    ),
    state=sources_pb2.SOURCE_STATE_LIVE,
    decoded=1_500,
    answered=1_200,
    dropped=common_pb2.Drops(superseded=290, gate=10),
    fps=24.96,
    width=1920,
    height=1080,
    codec="h264",
    skipped=77,
    connections=3,
    crashes=1,
    last_frame_time_ns=1_700_000_000_000_000_000,
)
TOLD = (
    *("--drop-policy", "every_frame", "--deadline-ms", 200, "--priority", -3, "--transport", "udp", "--pace", "fast"),
    *("--decode-effort", "key", "--rotate", 90, "--region", "0.25,0.5,0.75,0.5", "--queue-size", 8, "--gate", 0.01),
    *("--gate-refresh-ms", 700, "--reconnect-first-ms", 100, "--reconnect-longest-ms", 9_000),
)


@pytest.fixture(autouse=True)
def scripted(double: WireDouble) -> None:
    for method in ("AddSource", "UpdateSource", "GetSource"):
        double.answers[method] = lambda *_: SOURCE
    for method, state in (("PauseSource", "PAUSED"), ("ResumeSource", "CONNECTING")):
        answer = sources_pb2.Source(config=SOURCE.config, state=sources_pb2.SourceState.Value(f"SOURCE_STATE_{state}"))
        double.answers[method] = lambda *_, answer=answer: answer
    double.answers["ListSources"] = lambda *_: sources_pb2.ListSourcesResponse(sources=[SOURCE])


def told_config() -> sources_pb2.SourceConfig:
    return sources_pb2.SourceConfig(
        name="line-1",
        drop_policy=common_pb2.DROP_POLICY_EVERY_FRAME,
        deadline_ms=200,
        priority=-3,
        transport=sources_pb2.TRANSPORT_UDP,
        pace=sources_pb2.PACE_FAST,
        decode_effort=sources_pb2.DECODE_EFFORT_KEY,
        rotation=90,
        region=sources_pb2.Region(left=0.25, top=0.5, width=0.75, height=0.5),
        queue_size=8,
        gate=sources_pb2.MotionGate(change=0.01, refresh_ms=700),
        reconnect=sources_pb2.Reconnect(first_ms=100, longest_ms=9_000),
    )


def test_add_says_all_that_is_given(double: WireDouble, run: Run) -> None:
    done = run("sources", "add", "line-1", "rtsp://camera/1", "-t", "defect", *TOLD, "--loop", "--paused")
    assert done.exit_code == 0, done.output
    expected = told_config()
    expected.url, expected.loop, expected.paused = "rtsp://camera/1", True, True
    expected.tasks.add(task="defect", alias="live")
    assert double.asked["AddSource"][0].source == expected


def test_add_says_nothing_else(double: WireDouble, run: Run) -> None:
    assert run("sources", "add", "line-1", "clip.mp4", "-t", "defect").exit_code == 0
    fields = {field.name for field, _ in double.asked["AddSource"][0].source.ListFields()}
    assert fields == {"name", "url", "tasks"}


def test_update_says_only_what_is_given(double: WireDouble, run: Run) -> None:
    assert run("sources", "update", "line-1", *TOLD, "--no-loop").exit_code == 0
    assert run("sources", "update", "line-1", "--gate", "0").exit_code == 0
    assert run("sources", "update", "line-1", "-t", "scene/5fps", "--url", "usb:0", "--region", "all").exit_code == 0
    everything, gate, others = double.asked["UpdateSource"]
    assert everything.source == told_config()
    assert len(everything.update_mask.paths) == 14
    assert list(gate.update_mask.paths) == ["gate.change"]
    assert sorted(others.update_mask.paths) == ["region", "tasks", "url"]
    assert others.source.region == sources_pb2.Region(width=1, height=1)
    assert [(task.task, task.max_fps) for task in others.source.tasks] == [("scene", 5)]


def test_update_of_nothing_says_what_to_do(double: WireDouble, run: Run) -> None:
    done = run("sources", "update", "line-1")
    assert (done.exit_code, double.asked) == (2, {})
    assert "nothing to change" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--region", "0,0,1"),
        ("--region", "left"),
        ("--rotate", "45"),
        ("--transport", "quic"),
        ("--pace", "slow"),
        ("--gate", "much"),
        ("--queue-size", "-1"),
        ("--reconnect-first-ms", "-1"),
    ],
)
def test_what_can_not_be_is_a_usage_error(arguments: tuple[str, ...], double: WireDouble, run: Run) -> None:
    for command in (("add", "line-1", "clip.mp4", "-t", "defect"), ("update", "line-1")):
        done = run("sources", *command, *arguments)
        assert done.exit_code == 2
        assert arguments[0].lstrip("-").split("-")[0] in done.stderr
    assert not double.asked


def test_pause_and_resume(double: WireDouble, run: Run) -> None:
    assert run("sources", "pause", "line-1").stdout == "line-1: paused\n"
    assert run("sources", "resume", "line-1").stdout == "line-1: connecting\n"
    assert json.loads(run("sources", "pause", "line-1", "--json").stdout)["state"] == "paused"
    assert {request.name for request in double.asked["PauseSource"] + double.asked["ResumeSource"]} == {"line-1"}


def test_the_list_tells_how_they_are_doing(run: Run) -> None:
    lines = run("sources", "list").stdout.splitlines()
    assert lines[0].split() == ["name", "state", "fps", "size", "codec", "answered", "dropped", "tasks"]
    for told in ("line-1", "live", "25.0", "1920×1080", "h264", "1,200", "290 superseded, 10 gate", "scene/1fps"):
        assert told in lines[1]


def test_states_have_colours_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Console(force_terminal=True, color_system="standard", width=200).print(
        source_table([source_convert.source(SOURCE)])
    )
    assert "\x1b[32mlive" in capsys.readouterr().out


def test_an_empty_list_says_what_to_do(double: WireDouble, run: Run) -> None:
    double.answers["ListSources"] = lambda *_: sources_pb2.ListSourcesResponse()
    assert "Next: lensmount sources add" in run("sources", "list").stdout
    assert run("sources", "list", "--json").stdout == "[]\n"


def test_show_tells_everything(run: Run) -> None:
    shown = run("sources", "show", "line-1").stdout
    for told in (
        "rtsp://user:***@camera/1",
        "realtime, RTSP over TCP, decodes key pictures only",
        "left 0.25, top 0.5, width 0.75, height 0.5 of the picture, turned by 90° clockwise",
        "answers again when 1.00% of the picture changes, or after 5,000 ms",
        "250 to 2,000 ms",
        "1920×1080, h264, 25.0 frames a second",
        "1,500 decoded, 1,200 answered, 300 dropped",
        "290 superseded, 10 gate",
        "3, 1 readers crashed",
        "2023-11-1",
    ):
        assert told in shown
    (document,) = map(json.loads, run("sources", "show", "line-1", "--json").stdout.splitlines())
    known: dict[str, Any] = {"region": [0.25, 0.5, 0.75, 0.5], "gate": 0.01, "codec": "h264", "skipped": 77}
    assert {name: document[name] for name in known} == known


@pytest.mark.parametrize("command", ["add", "update", "pause", "resume", "list", "show", "remove"])
def test_every_command_has_an_example(command: str, run: Run) -> None:
    assert f"lensmount sources {command}" in run("sources", command, "--help").stdout.partition("Examples:")[2]
