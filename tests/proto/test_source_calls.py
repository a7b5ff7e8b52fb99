from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from lensmount import Client, DecodeEffort, Region, SourceChanges, SourceOptions, Transport
from lensmount.errors import InvalidInputError
from lensmount.source_calls import _OPTIONS
from lensmount.v1 import common_pb2, sources_pb2

if TYPE_CHECKING:
    from proto.conftest import WireDouble

SOURCE = sources_pb2.Source(
    config=sources_pb2.SourceConfig(name="line-1", tasks=[common_pb2.TaskRef(task="defect")], paused=True),
    state=sources_pb2.SOURCE_STATE_PAUSED,
)
EVERYTHING: SourceOptions = {
    "loop": True,
    "drop_policy": "every_frame",
    "deadline_ms": 200,
    "priority": -3,
    "transport": "udp",
    "pace": "fast",
    "decode_effort": DecodeEffort.KEY,
    "rotation": 90,
    "region": (0.25, 0.5, 0.75, 0.5),
    "queue_size": 8,
    "gate": 0.01,
    "gate_refresh_ms": 700,
    "reconnect_first_ms": 100,
    "reconnect_longest_ms": 9_000,
    "paused": True,
}


@pytest.fixture(autouse=True)
def scripted(double: WireDouble) -> None:
    for method in ("AddSource", "UpdateSource", "PauseSource", "ResumeSource"):
        double.answers[method] = lambda *_: SOURCE


def test_every_option_arrives(double: WireDouble, client: Client) -> None:
    client.add_source("line-1", "rtsp://camera", "defect", **EVERYTHING)
    (request,) = double.asked["AddSource"]
    assert request.source == sources_pb2.SourceConfig(
        name="line-1",
        url="rtsp://camera",
        tasks=[common_pb2.TaskRef(task="defect", alias="live")],
        loop=True,
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
        paused=True,
    )


def test_what_is_typed_is_what_is_read() -> None:
    assert set(EVERYTHING) == SourceOptions.__optional_keys__
    assert set(_OPTIONS) == SourceChanges.__optional_keys__
    fields = set(sources_pb2.SourceConfig.DESCRIPTOR.fields_by_name)
    assert {option.path.partition(".")[0] for option in _OPTIONS.values()} == fields - {"name"}


def test_without_options_the_server_decides(double: WireDouble, client: Client) -> None:
    client.add_source("line-1", "rtsp://camera", "defect")
    (request,) = double.asked["AddSource"]
    assert {field.name for field, _ in request.source.ListFields()} == {"name", "url", "tasks"}


def test_an_update_says_only_what_is_given(double: WireDouble, client: Client) -> None:
    client.update_source("line-1", deadline_ms=0, gate=0.02, tasks=["defect", "scene/1fps"])
    (request,) = double.asked["UpdateSource"]
    assert list(request.update_mask.paths) == ["deadline_ms", "gate.change", "tasks"]
    assert {field.name for field, _ in request.source.ListFields()} == {"name", "gate", "tasks"}
    assert [task.max_fps for task in request.source.tasks] == [0, 1]


def test_every_option_can_be_changed(double: WireDouble, client: Client) -> None:
    client.update_source("line-1", url="rtsp://camera/2", tasks="scene", **EVERYTHING)
    (request,) = double.asked["UpdateSource"]
    assert list(request.update_mask.paths) == ["url", "tasks", *(_OPTIONS[option].path for option in EVERYTHING)]
    assert request.update_mask.IsValidForDescriptor(sources_pb2.SourceConfig.DESCRIPTOR)
    assert request.source.url == "rtsp://camera/2"


def test_no_region_is_all_of_the_picture(double: WireDouble, client: Client) -> None:
    client.update_source("line-1", region=None)
    client.update_source("line-1", region=Region(top=0.5, height=0.5))
    whole, half = double.asked["UpdateSource"]
    assert list(whole.update_mask.paths) == ["region"]
    assert not whole.source.HasField("region")
    assert half.source.region == sources_pb2.Region(top=0.5, width=1, height=0.5)


def test_a_source_can_be_copied_from_what_is_told_of_it(double: WireDouble, client: Client) -> None:
    client.add_source("line-1", "rtsp://camera", "defect", **EVERYTHING)
    told = sources_pb2.Source(config=double.asked["AddSource"][0].source)
    double.answers["AddSource"] = lambda *_: told
    source = client.add_source("line-1", "rtsp://camera", "defect", **EVERYTHING)
    assert {name: getattr(source, name) for name in EVERYTHING} == EVERYTHING
    assert source.transport is Transport.UDP


def test_pause_and_resume(double: WireDouble, client: Client) -> None:
    paused = client.pause_source("line-1")
    assert (paused.state, paused.paused) == ("paused", True)
    client.resume_source("line-1")
    assert double.asked["PauseSource"][0].name == double.asked["ResumeSource"][0].name == "line-1"


@pytest.mark.parametrize(
    ("option", "value", "advice"),
    [
        ("transport", "tls", "one of tcp, udp"),
        ("pace", "slow", "one of realtime, fast"),
        ("decode_effort", "", "one of auto, all, reference, key"),
        ("drop_policy", "oldest", "one of every_frame, newest"),
        ("rotation", -90, "whole number"),
        ("rotation", 90.0, "whole number"),
        ("queue_size", 2**32, "whole number"),
        ("gate_refresh_ms", -1, "whole number"),
        ("gate", float("nan"), "0 to 1"),
        ("gate", "much", "0 to 1"),
        ("region", (0, 0, 1), "(0, 0.5, 1, 0.5)"),
        ("region", "all", "(0, 0.5, 1, 0.5)"),
        ("region", (0, 0, 1, float("inf")), "0 to 1"),
        ("size", 4, "url, tasks, loop"),
    ],
)
def test_what_can_not_be_is_refused_here(
    option: str, value: Any, advice: str, double: WireDouble, client: Client
) -> None:
    options: Any = {option: value}
    for call in (partial(client.add_source, "line-1", "rtsp://camera", "defect"), partial(client.update_source, "a")):
        with pytest.raises(InvalidInputError) as caught:
            call(**options)
        assert caught.value.field == option
        assert advice in caught.value.fix
    assert not double.asked


def test_an_update_of_nothing(double: WireDouble, client: Client) -> None:
    with pytest.raises(InvalidInputError, match="nothing to change"):
        client.update_source("line-1")
    assert not double.asked
