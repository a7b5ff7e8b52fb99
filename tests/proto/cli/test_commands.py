from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import Result

from lensmount import errors
from lensmount.v1 import adapters_pb2, common_pb2, inference_pb2, sources_pb2

if TYPE_CHECKING:
    from proto.conftest import Answer, WireDouble

Run = Callable[..., Result]

ADAPTER = adapters_pb2.Adapter(
    version=common_pb2.AdapterVersion(task="defect", version=2, content_hash="ab" * 32),
    aliases=["canary"],
    labels=["good", "[red]scratch"],
    strategy="lora",
    fork=9,
    backbone="tf_efficientnet_lite0",
    size_bytes=3 << 20,
    registered_time_ns=1_700_000_000_000_000_000,
    metrics={"accuracy": 0.875},
    residency=adapters_pb2.RESIDENCY_HOST_CACHED,
)
SOURCE = sources_pb2.Source(
    config=sources_pb2.SourceConfig(
        name="line-1",
        url="rtsp://camera/1",
        tasks=[common_pb2.TaskRef(task="defect"), common_pb2.TaskRef(task="scene", version=3)],
    ),
    state=sources_pb2.SOURCE_STATE_FAILED,
    reason="no route to the camera",
    answered=7,
    dropped=common_pb2.Drops(superseded=2),
)


def script(double: WireDouble, method: str, answer: Any) -> None:
    double.answers[method] = lambda *_: answer


def documents(done: Result) -> list[Any]:
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "part.jpg"
    path.write_bytes(b"jpeg")
    return path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "defect").mkdir()
    (tmp_path / "defect" / "task.json").write_text("{}")
    return tmp_path / "defect"


def test_infer(double: WireDouble, run: Run, picture: Path, result_message: Any) -> None:
    script(double, "Infer", inference_pb2.InferResponse(results=[result_message(), result_message("scene")]))
    first, second = documents(run("infer", picture, "--task", "defect", "-t", "scene@canary", "--json"))
    assert (first["picture"], first["task"], first["version"]) == (str(picture), "defect", 2)
    assert (first["label"], first["score"], first["scores"]) == ("scratch", 0.75, {"good": 0.25, "scratch": 0.75})
    assert second["task"] == "scene"
    assert [ref.alias for ref in double.asked["Infer"][0].tasks] == ["live", "canary"]
    shown = run("infer", picture, picture, "-t", "defect").stdout
    assert shown.count("scratch") == 4
    assert shown.count("0.75") == 4


def test_infer_needs_a_task(run: Run, picture: Path) -> None:
    done = run("infer", picture)
    assert done.exit_code == 2
    assert "Missing option '--task'" in done.stderr


@pytest.mark.parametrize("arguments", [["gone.jpg", "-t", "defect"], ["{picture}", "-t", "defect@live:3"]])
def test_infer_refuses_what_can_not_work(arguments: list[str], run: Run, picture: Path, double: WireDouble) -> None:
    done = run("infer", *(argument.format(picture=picture) for argument in arguments))
    assert done.exit_code == 2
    assert "Fix: " in done.stderr
    assert not double.asked


def test_stream(double: WireDouble, run: Run, make_video: Callable[..., Path], answer_stream: Answer) -> None:
    double.answers["StreamInfer"] = answer_stream
    clip = make_video("clip.mp4", frames=5)
    *results, summary = documents(run("stream", clip, "-t", "defect", "-t", "scene", "--json", "--name", "belt"))
    assert [(result["kind"], result["frame_index"], result["task"]) for result in results] == [
        ("result", index, task) for index in range(5) for task in ("defect", "scene")
    ]
    assert {result["source"] for result in results} == {"belt"}
    assert (summary["kind"], summary["received"], summary["answered"]) == ("summary", 5, 5)
    shown = run("stream", clip, "-t", "defect", "--drop-policy", "newest").stdout
    assert "5 sent, 5 decoded, 5 answered, 0 dropped" in shown
    assert "scratch" in shown


def test_stream_of_what_is_no_video(run: Run, picture: Path) -> None:
    picture.rename(picture.with_suffix(".mp4"))
    done = run("stream", picture.with_suffix(".mp4"), "-t", "defect")
    assert done.exit_code == 2
    assert "can not be read as video" in done.stderr


def test_a_stream_that_fails_midway_exits_with_the_error(
    double: WireDouble, run: Run, make_video: Callable[..., Path]
) -> None:
    double.fail("StreamInfer", errors.NotFoundError("no such task", field="tasks", value="defect"))
    done = run("stream", make_video("clip.mp4"), "-t", "defect", "--json")
    assert (done.exit_code, done.stdout) == (3, "")


@pytest.mark.parametrize("already", [False, True])
def test_register(already: bool, double: WireDouble, run: Run, package: Path) -> None:
    checks = [adapters_pb2.GateCheck(name="golden", detail="8 pictures within 1e-4", duration_ms=12.25)]
    answer = adapters_pb2.RegisterAdapterResponse(adapter=ADAPTER, checks=checks, already_registered=already)

    def register(requests: Any, _: object) -> adapters_pb2.RegisterAdapterResponse:
        list(requests)
        return answer

    double.answers["RegisterAdapter"] = register
    (document,) = documents(run("register", package, "--alias", "canary", "--json"))
    assert document["adapter"]["version"] == 2
    assert document["checks"] == [{"name": "golden", "detail": "8 pictures within 1e-4", "duration_ms": 12.25}]
    assert double.asked["RegisterAdapter"][0].header.set_alias == "canary"
    shown = run("register", package)
    assert "8 pictures within 1e-4" in shown.stdout
    assert ("was registered before as" if already else "registered as") in shown.stdout
    assert "Next: lensmount promote defect 2" in shown.stdout


def test_register_of_what_is_no_package(run: Run, tmp_path: Path) -> None:
    done = run("register", tmp_path / "gone")
    assert done.exit_code == 2
    assert "lensmount train" in done.stderr


def test_promote(double: WireDouble, run: Run) -> None:
    answer = adapters_pb2.SetAliasResponse(task="defect", alias="live", version=2, previous_version=1, switch_ms=3.25)
    script(double, "SetAlias", answer)
    assert run("promote", "defect", 2).stdout == "defect@live is version 2 (was 1), switched after 3.2 ms\n"
    (document,) = documents(run("promote", "defect", 2, "--alias", "canary", "--expected-version", 1, "--json"))
    told = {"task": "defect", "alias": "live", "version": 2, "previous_version": 1, "switch_ms": 3.25}
    assert document == {**told, "etag": "", "first_answer_ms": None}
    assert [(each.alias, each.expected_version) for each in double.asked["SetAlias"]] == [("live", 0), ("canary", 1)]


@pytest.mark.parametrize("version", ["0", "two", "-1"])
def test_promote_takes_a_version_number(version: str, run: Run) -> None:
    assert run("promote", "defect", "--", version).exit_code == 2


def test_a_new_alias_was_nothing_before(double: WireDouble, run: Run) -> None:
    script(double, "SetAlias", adapters_pb2.SetAliasResponse(task="defect", alias="live", version=1))
    assert "(new)" in run("promote", "defect", 1).stdout


def test_adapters(double: WireDouble, run: Run) -> None:
    script(double, "ListAdapters", adapters_pb2.ListAdaptersResponse(adapters=[ADAPTER]))
    script(double, "GetAdapter", ADAPTER)
    (listed,) = documents(run("adapters", "list", "--task", "defect", "--json"))
    (shown,) = documents(run("adapters", "show", "defect:2", "--json"))
    assert listed == [shown]
    assert (shown["labels"], shown["metrics"]) == (["good", "[red]scratch"], {"accuracy": 0.875})
    table, facts = run("adapters", "list").stdout, run("adapters", "show", "defect").stdout
    for text in ("lora", "canary", "[red]scratch"):
        assert text in table
        assert text in facts
    assert "0.875" in facts
    assert shown["residency"] == "host_cached"
    assert "on the host" in table
    assert "on the host" in facts


def test_a_version_in_quarantine_says_why(double: WireDouble, run: Run) -> None:
    adapter = adapters_pb2.Adapter()
    adapter.CopyFrom(ADAPTER)
    adapter.residency, adapter.residency_reason = adapters_pb2.RESIDENCY_QUARANTINED, "its bytes changed; register it"
    script(double, "GetAdapter", adapter)
    script(double, "ListAdapters", adapters_pb2.ListAdaptersResponse(adapters=[adapter]))
    assert "in quarantine: its bytes changed; register it" in run("adapters", "show", "defect").stdout
    assert "in quarantine" in run("adapters", "list").stdout
    (document,) = documents(run("adapters", "show", "defect", "--json"))
    assert (document["residency"], document["residency_reason"]) == ("quarantined", "its bytes changed; register it")


@pytest.mark.parametrize("number", [0, 99])
def test_a_place_that_is_not_known_here_is_not_guessed(number: int, double: WireDouble, run: Run) -> None:
    adapter = adapters_pb2.Adapter()
    adapter.CopyFrom(ADAPTER)
    adapter.residency = number  # type: ignore[assignment] # as another release might send
    script(double, "GetAdapter", adapter)
    assert "not told" in run("adapters", "show", "defect").stdout


def test_sources(double: WireDouble, run: Run) -> None:
    for method in ("AddSource", "GetSource"):
        script(double, method, SOURCE)
    script(double, "ListSources", sources_pb2.ListSourcesResponse(sources=[SOURCE]))
    script(double, "RemoveSource", sources_pb2.RemoveSourceResponse())
    add = ("sources", "add", "line-1", "rtsp://camera/1", "-t", "defect", "-t", "scene:3", "--loop")
    (added,) = documents(run(*add, "--json"))
    assert (added["state"], added["tasks"], added["drop_policy"]) == ("failed", ["defect", "scene:3"], "newest")
    assert double.asked["AddSource"][0].source.loop
    assert documents(run("sources", "list", "--json")) == [[added]]
    assert documents(run("sources", "show", "line-1", "--json")) == [added]
    assert documents(run("sources", "remove", "line-1", "--json")) == [{"removed": "line-1"}]
    for shown in (run(*add), run("sources", "show", "line-1"), run("sources", "list")):
        assert "defect, scene:3" in shown.stdout
        assert "no route to the camera" in shown.stdout
    assert "rtsp://camera/1" in run("sources", "show", "line-1").stdout
    assert run("sources", "remove", "line-1").stdout == "line-1 removed\n"


def test_terms_on_the_command_line(
    double: WireDouble, run: Run, make_video: Callable[..., Path], answer_stream: Answer
) -> None:
    script(double, "AddSource", SOURCE)
    double.answers["StreamInfer"] = answer_stream
    terms = ("-t", "defect", "-t", "scene@canary/0.5fps", "--deadline-ms", 200, "--priority", -3)
    documents(run("sources", "add", "line-1", "rtsp://camera/1", *terms, "--json"))
    documents(run("stream", make_video("clip.mp4", frames=2), *terms, "--json"))
    for config in (double.asked["AddSource"][0].source, double.asked["StreamInfer"][0].config):
        assert (config.deadline_ms, config.priority) == (200, -3)
        assert [(task.task, task.alias, task.max_fps) for task in config.tasks] == [
            ("defect", "live", 0),
            ("scene", "canary", 0.5),
        ]


@pytest.mark.parametrize("terms", [("--deadline-ms", "-5"), ("--priority", "11"), ("-t", "scene/1001fps")])
def test_terms_that_can_not_be(terms: tuple[str, ...], double: WireDouble, run: Run) -> None:
    done = run("sources", "add", "line-1", "rtsp://camera/1", "-t", "defect", *terms)
    assert done.exit_code == 2
    assert "Fix: give" in done.stderr
    assert not double.asked


def test_watch(double: WireDouble, run: Run, result_message: Any) -> None:
    def answer(*_: object) -> Iterator[sources_pb2.WatchResultsResponse]:
        yield sources_pb2.WatchResultsResponse(source=SOURCE)
        yield sources_pb2.WatchResultsResponse(result=result_message(source="line-1", frame_index=4), lost=3)
        yield sources_pb2.WatchResultsResponse(result=result_message(source="line-1", frame_index=5, jpeg=b"x"))

    double.answers["WatchResults"] = answer
    done = run("watch", "line-1", "--task", "defect", "--json")
    source, *results = documents(done)
    assert (source["kind"], source["name"], source["state"]) == ("source", "line-1", "failed")
    assert [(result["kind"], result["frame_index"]) for result in results] == [("result", 4), ("result", 5)]
    assert "jpeg" not in results[1]
    assert done.stderr == "3 results were lost: this reader was too slow.\n"
    assert list(double.asked["WatchResults"][0].sources) == ["line-1"]
    shown = run("watch").stdout
    assert "line-1: failed, no route to the camera" in shown
    assert "scratch" in shown


def test_info(double: WireDouble, run: Run) -> None:
    backbone = inference_pb2.BackboneInfo(name="vit_tiny", fingerprint="cd" * 32, segments=["stem", "block 0"])
    engine = inference_pb2.EngineCounters(batches=2, frames=4, rows=8, segment_rows=[4, 8])
    info = inference_pb2.ServerInfo(
        version="0.1.0", backbone=backbone, device="cpu", precision="bf16", engine=engine, max_message_bytes=64 << 20
    )
    script(double, "GetServerInfo", info)
    (document,) = documents(run("info", "--json"))
    assert document["backbone"] == {"name": "vit_tiny", "fingerprint": "cd" * 32, "segments": ["stem", "block 0"]}
    assert document["engine"]["segment_rows"] == [4, 8]
    shown = run("info").stdout
    for text in ("vit_tiny (2 segments)", "cpu, bf16", "1.00", "64 MiB", "not told by this server"):
        assert text in shown
    assert "ms for 8 rows" not in shown
    assert "rows in a batch" not in shown


def test_info_tells_what_was_measured_and_what_is_in_memory(double: WireDouble, run: Run) -> None:
    fast = inference_pb2.EngineCandidate(
        engine="openvino", precision="bf16", one_row_ms=4.25, eight_rows_ms=20.5, error=0.004, chosen=True
    )
    coarse = inference_pb2.EngineCandidate(
        engine="torch", precision="bf16", one_row_ms=3, eight_rows_ms=16, error=float("nan"), too_coarse=True
    )
    costs = [inference_pb2.BatchCost(rows=rows, batch_ms=ms) for rows, ms in ((1, 4.0), (8, 20.0))]
    engine = inference_pb2.EngineInfo(
        name="openvino", batch_sizes=[1, 4], costs=costs, candidates=[fast, coarse], reason="the fastest"
    )
    residency = inference_pb2.ResidencyState(
        hot=1200, hot_bytes=3 << 20, leased=4, pinned=5, host_cached=6, host_cached_bytes=1 << 19, quarantined=7
    )
    script(double, "GetServerInfo", inference_pb2.ServerInfo(engine_info=engine, residency=residency))
    shown = run("info").stdout
    lines = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()]
    assert ["openvino", "bf16", "4.2", "20.5", "0.40%", "chosen"] in lines
    assert ["torch", "bf16", "3.0", "16.0", "no numbers", "too coarse"] in lines
    assert ["8", "20.0", "2.5"] in lines
    assert ["chosen as", "the fastest"] in lines
    assert ["compiled for", "batches of 1, 4"] in lines
    memory = "1,200 hot (3.0 MiB; 5 followed, 4 in use), 6 on the host (0.5 MiB), 7 in quarantine"
    assert ["adapters", memory] in lines
    (document,) = documents(run("info", "--json"))
    told = document["engine_info"]
    assert told["costs"] == [{"rows": 1, "batch_ms": 4.0}, {"rows": 8, "batch_ms": 20.0}]
    assert [each["error"] for each in told["candidates"]] == [0.004, None]
    assert (told["name"], told["batch_sizes"], told["reason"]) == ("openvino", [1, 4], "the fastest")
    assert (document["residency"]["hot"], document["residency"]["quarantined"]) == (1200, 7)


def test_the_table_is_live_on_a_terminal(double: WireDouble, result_message: Any) -> None:
    def answer(_: object, context: Any) -> Iterator[sources_pb2.WatchResultsResponse]:
        yield sources_pb2.WatchResultsResponse(result=result_message(source="line-1"))
        while context.is_active():
            time.sleep(0.05)

    double.answers["WatchResults"] = answer
    ours, theirs = os.openpty()
    program = [sys.executable, "-m", "lensmount", "watch", "--server", double.address]
    with subprocess.Popen(
        program, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown = b""
        while b"scratch" not in shown:  # the call never ends: it is seen while it runs
            shown += os.read(ours, 4096)
        os.kill(process.pid, signal.SIGINT)
        with suppress(OSError):  # a terminal that nobody holds any more
            while more := os.read(ours, 4096):
                shown += more
        assert process.wait(60) == 130
    os.close(ours)
    assert b"line-1" in shown
    assert b"\x1b[" in shown
