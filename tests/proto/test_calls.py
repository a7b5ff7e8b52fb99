from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from lensmount import (
    AliasChange,
    Client,
    DeadlineError,
    DropPolicy,
    InvalidInputError,
    SourceState,
    TaskRef,
    UnavailableError,
)
from lensmount.v1 import adapters_pb2, common_pb2, inference_pb2, sources_pb2

if TYPE_CHECKING:
    from proto.conftest import WireDouble

SOURCE = sources_pb2.Source(
    config=sources_pb2.SourceConfig(name="line-1", url="rtsp://camera", tasks=[common_pb2.TaskRef(task="defect")]),
    state=sources_pb2.SOURCE_STATE_LIVE,
)


def script(double: WireDouble, method: str, answer: Any) -> None:
    double.answers[method] = lambda *_: answer


def test_infer(double: WireDouble, client: Client, result_message: Callable[..., Any]) -> None:
    answer = inference_pb2.InferResponse(results=[result_message("defect"), result_message("scene")])
    script(double, "Infer", answer)
    first, second = client.infer(np.zeros((4, 6, 3), np.uint8), tasks=["defect", "scene@canary", "wear:3"])
    assert (first.task, first.label, first.score, second.task) == ("defect", "scratch", 0.75, "scene")
    (request,) = double.asked["Infer"]
    assert (request.raw.width, request.raw.height) == (6, 4)
    assert [(ref.task, ref.alias, ref.version) for ref in request.tasks] == [
        ("defect", "live", 0),
        ("scene", "canary", 0),
        ("wear", "", 3),
    ]


@pytest.mark.parametrize("tasks", [[], ["de fect"], ["defect@live:3"], [TaskRef("defect", version=-1)]])
def test_wrong_tasks_never_leave_the_client(tasks: Any, double: WireDouble, client: Client) -> None:
    with pytest.raises(InvalidInputError) as caught:
        client.infer(b"jpeg", tasks)
    assert caught.value.field == "tasks"
    assert not double.asked


def test_info(double: WireDouble, client: Client) -> None:
    engine = inference_pb2.EngineCounters(frames=4, segment_rows=[4, 8])
    script(double, "GetServerInfo", inference_pb2.ServerInfo(version="0.1.0", device="cpu", engine=engine))
    info = client.info()
    assert (info.version, info.device, info.engine.trunk_passes_per_frame) == ("0.1.0", "cpu", 1.0)


def test_adapters_follow_the_pages(double: WireDouble, client: Client) -> None:
    def answer(request: Any, _: object) -> adapters_pb2.ListAdaptersResponse:
        page = int(request.page_token or 0)
        versions = [common_pb2.AdapterVersion(task="defect", version=6 - 2 * page - each) for each in range(2)]
        token = str(page + 1) if page < 2 else ""
        adapters = [adapters_pb2.Adapter(version=version) for version in versions]
        return adapters_pb2.ListAdaptersResponse(adapters=adapters, next_page_token=token)

    double.answers["ListAdapters"] = answer
    adapters = client.adapters("defect")
    assert next(adapters).version == 6
    assert len(double.asked["ListAdapters"]) == 1, "pages are fetched as needed"
    assert [adapter.version for adapter in adapters] == [5, 4, 3, 2, 1]
    assert [(each.task, each.page_token) for each in double.asked["ListAdapters"]] == [
        ("defect", ""),
        ("defect", "1"),
        ("defect", "2"),
    ]


@pytest.mark.parametrize(
    ("ref", "wire"),
    [
        ("defect", common_pb2.TaskRef(task="defect", alias="live")),
        ("defect@canary", common_pb2.TaskRef(task="defect", alias="canary")),
        (TaskRef("defect", version=3), common_pb2.TaskRef(task="defect", version=3)),
    ],
)
def test_adapter(ref: str | TaskRef, wire: Any, double: WireDouble, client: Client) -> None:
    script(double, "GetAdapter", adapters_pb2.Adapter(version=common_pb2.AdapterVersion(task="defect", version=3)))
    assert client.adapter(ref).version == 3
    assert double.asked["GetAdapter"] == [adapters_pb2.GetAdapterRequest(adapter=wire)]


@pytest.mark.parametrize("expected", [None, 0, 1])
def test_set_alias(expected: int | None, double: WireDouble, client: Client) -> None:
    answer = adapters_pb2.SetAliasResponse(task="defect", alias="canary", version=2, previous_version=1, switch_ms=12.5)
    script(double, "SetAlias", answer)
    change = client.set_alias("defect", 2, "canary", expected)
    assert change == AliasChange("defect", "canary", 2, 1, 12.5)
    (request,) = double.asked["SetAlias"]
    assert (request.task, request.alias, request.version) == ("defect", "canary", 2)
    assert (request.expected_version if request.HasField("expected_version") else None) == expected


def test_the_alias_is_live_unless_said(double: WireDouble, client: Client) -> None:
    script(double, "SetAlias", adapters_pb2.SetAliasResponse())
    script(double, "Rollback", adapters_pb2.SetAliasResponse(version=1))
    client.set_alias("defect", 2)
    assert client.rollback("defect").version == 1
    assert double.asked["SetAlias"][0].alias == double.asked["Rollback"][0].alias == "live"


@pytest.mark.parametrize("version", [-1, 2**32])
def test_a_version_that_the_wire_can_not_carry(version: int, client: Client) -> None:
    with pytest.raises(InvalidInputError, match="version"):
        client.set_alias("defect", version)


def test_add_source(double: WireDouble, client: Client) -> None:
    script(double, "AddSource", SOURCE)
    source = client.add_source("line-1", "rtsp://camera", tasks="defect", loop=True, drop_policy="every_frame")
    assert (source.name, source.state, source.tasks) == ("line-1", SourceState.LIVE, (TaskRef("defect"),))
    config = double.asked["AddSource"][0].source
    assert (config.name, config.url, config.loop) == ("line-1", "rtsp://camera", True)
    assert config.drop_policy == common_pb2.DROP_POLICY_EVERY_FRAME
    client.add_source("line-2", "rtsp://camera", tasks=["defect"])
    config = double.asked["AddSource"][1].source
    assert (config.loop, config.drop_policy) == (False, common_pb2.DROP_POLICY_UNSPECIFIED)


def test_the_terms_of_a_source(double: WireDouble, client: Client) -> None:
    answer = sources_pb2.Source()
    answer.CopyFrom(SOURCE)
    answer.config.deadline_ms, answer.config.priority = 200, -3
    script(double, "AddSource", answer)
    tasks: list[str | TaskRef] = ["defect", TaskRef("scene", max_fps=0.5)]
    source = client.add_source("line-1", "rtsp://camera", tasks, deadline_ms=200, priority=-3)
    assert (source.deadline_ms, source.priority) == (200, -3)
    config = double.asked["AddSource"][0].source
    assert (config.deadline_ms, config.priority) == (200, -3)
    assert [task.max_fps for task in config.tasks] == [0, 0.5]


def test_terms_that_can_not_be_are_refused_here(double: WireDouble, client: Client) -> None:
    bad: list[dict[str, Any]] = [
        {"deadline_ms": -1},
        {"priority": 11},
        {"tasks": TaskRef("scene", max_fps=float("nan"))},
    ]
    for terms in bad:
        options = {"tasks": "defect", **terms}
        with pytest.raises(InvalidInputError):
            client.add_source("line-1", "rtsp://camera", **options)
        with pytest.raises(InvalidInputError):
            client.stream([b""], **options)
    assert not double.asked


def test_the_time_for_a_picture_is_told(double: WireDouble, client: Client) -> None:
    script(double, "Infer", inference_pb2.InferResponse())
    client.infer(b"jpeg", "defect", timeout=500)
    assert 400 < (double.time_limits["Infer"] or 0) < 600


def test_an_unknown_policy_names_the_known(client: Client) -> None:
    with pytest.raises(InvalidInputError, match="every_frame, newest"):
        client.add_source("line-1", "rtsp://camera", ["defect"], drop_policy="oldest")
    with pytest.raises(InvalidInputError, match="every_frame, newest"):
        client.stream([], ["defect"], drop_policy="")


def test_the_other_source_calls(double: WireDouble, client: Client) -> None:
    script(double, "ListSources", sources_pb2.ListSourcesResponse(sources=[SOURCE, SOURCE]))
    script(double, "GetSource", SOURCE)
    script(double, "RemoveSource", sources_pb2.RemoveSourceResponse())
    assert [source.name for source in client.sources()] == ["line-1", "line-1"]
    assert client.source("line-1").drop_policy is DropPolicy.NEWEST
    client.remove_source("line-1")
    assert double.asked["GetSource"][0].name == double.asked["RemoveSource"][0].name == "line-1"


def test_the_timeout_travels_with_each_call(double: WireDouble, connect: Callable[..., Client]) -> None:
    script(double, "GetServerInfo", inference_pb2.ServerInfo())
    connect(double.address, timeout=1000).info()
    assert 900 < (double.time_limits["GetServerInfo"] or 0) < 1100
    connect(double.address, timeout=None).info()
    assert (double.time_limits["GetServerInfo"] or 1e9) > 1e6


def test_a_server_that_takes_too_long(double: WireDouble, connect: Callable[..., Client]) -> None:
    def answer(_: Any, context: grpc.ServicerContext) -> Any:
        while context.is_active():
            time.sleep(0.01)

    double.answers["GetServerInfo"] = answer
    with pytest.raises(DeadlineError, match="raise the timeout"):
        connect(double.address, timeout=0.2).info()


def test_wait_ready_waits_for_a_server(connect: Callable[..., Client], double: WireDouble) -> None:
    script(double, "GetServerInfo", inference_pb2.ServerInfo(version="0.1.0"))
    assert connect(double.address).wait_ready(30).version == "0.1.0"
    with pytest.raises(UnavailableError, match=r"no server at 127\.0\.0\.1:1 after 0\.3 s"):
        connect("127.0.0.1:1").wait_ready(0.3)


def test_a_closed_client_says_so(double: WireDouble, connect: Callable[..., Client]) -> None:
    client = connect(double.address)
    client.close()
    client.close()
    calls: list[Callable[[], object]] = [client.info, lambda: next(client.adapters()), lambda: next(client.watch())]
    for call in calls:
        with pytest.raises(UnavailableError, match="closed"):
            call()


def test_a_with_block_closes(double: WireDouble, connect: Callable[..., Client]) -> None:
    script(double, "GetServerInfo", inference_pb2.ServerInfo())
    with connect(double.address) as client:
        client.info()
    with pytest.raises(UnavailableError, match="closed"):
        client.info()


@pytest.fixture
def watch_answer(result_message: Callable[..., Any]) -> Callable[..., Iterator[sources_pb2.WatchResultsResponse]]:
    def answer(*_: object) -> Iterator[sources_pb2.WatchResultsResponse]:
        yield sources_pb2.WatchResultsResponse(source=SOURCE)
        yield sources_pb2.WatchResultsResponse(result=result_message(), lost=2)
        yield sources_pb2.WatchResultsResponse(lost=1)
        yield sources_pb2.WatchResultsResponse(result=result_message("scene"), lost=4)

    return answer


def test_watch(double: WireDouble, client: Client, watch_answer: Any) -> None:
    double.answers["WatchResults"] = watch_answer
    watch = client.watch(["line-1"], ["defect", "scene"], with_jpeg=True, queue_size=7)
    kinds = [(type(item).__name__, watch.lost) for item in watch]
    assert kinds == [("Source", 0), ("Result", 2), ("Result", 7)]
    (request,) = double.asked["WatchResults"]
    assert (list(request.sources), list(request.tasks)) == (["line-1"], ["defect", "scene"])
    assert (request.with_jpeg, request.queue_size) == (True, 7)


def test_watch_takes_one_name_as_one(double: WireDouble, client: Client, watch_answer: Any) -> None:
    double.answers["WatchResults"] = watch_answer
    assert len(list(client.watch("line-1", "defect"))) == 3
    (request,) = double.asked["WatchResults"]
    assert (list(request.sources), list(request.tasks)) == (["line-1"], ["defect"])
