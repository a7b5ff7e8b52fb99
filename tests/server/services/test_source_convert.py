from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmount.errors import InvalidInputError
from lensmount.v1 import common_pb2, sources_pb2
from lensmount_server.frames import Want
from lensmount_server.services.source_convert import changed, config_of, source, spec_of
from lensmount_server.sources.model import SourceSpec, SourceState, SourceStatus
from lensmount_server.streams import DropPolicy
from lensmount_server.video.account import Account
from lensmount_server.video.settings import Effort, Gate, Pace, Reconnect, Region, Transport

Config = sources_pb2.SourceConfig
DEFECT = [common_pb2.TaskRef(task="defect")]
CAMERA = SourceSpec(
    "line-1",
    "rtsp://user:secret@camera/1",
    (Want("defect"), Want("scene", "canary", 0, 2.0)),
    DropPolicy.EVERY_FRAME,
    loop=True,
    deadline_ms=200,
    priority=-3,
    queue_size=8,
    transport=Transport.UDP,
    pace=Pace.FAST,
    effort=Effort.KEY,
    rotation=90,
    region=Region(0.25, 0.5, 0.5, 0.25),
    gate=Gate(0.01, 750),
    reconnect=Reconnect(100, 5_000),
    paused=True,
)
SHOWN = "rtsp://user:***@camera/1"

shares = st.floats(0, 1)
specs = st.builds(
    SourceSpec,
    name=st.just("line-1"),
    url=st.just("clip.mp4"),
    wants=st.sampled_from([(Want("defect"),), (Want("defect", "canary", 3), Want("scene", max_fps=0.5))]),
    policy=st.sampled_from(DropPolicy),
    loop=st.booleans(),
    deadline_ms=st.integers(0, 3_600_000),
    priority=st.integers(-10, 10),
    queue_size=st.integers(0, 256),
    transport=st.sampled_from(Transport),
    pace=st.sampled_from(Pace),
    effort=st.sampled_from(Effort),
    rotation=st.sampled_from([0, 90, 180, 270]),
    region=st.builds(Region, shares, shares, shares, shares),
    gate=st.builds(Gate, shares, st.integers(1, 3_600_000)),
    reconnect=st.builds(Reconnect, st.integers(1, 3_600_000), st.integers(1, 3_600_000)),
    paused=st.booleans(),
)


def test_the_least_that_can_be_said_has_every_default() -> None:
    config = Config(name="line-1", url="clip.mp4", tasks=DEFECT)
    assert spec_of(config) == SourceSpec("line-1", "clip.mp4", (Want("defect"),))


def test_a_file_that_is_read_fast_loses_no_frame_unless_that_is_asked_for() -> None:
    fast = Config(name="line-1", url="clip.mp4", tasks=DEFECT, pace=sources_pb2.PACE_FAST)
    assert spec_of(fast).policy is DropPolicy.EVERY_FRAME
    fast.drop_policy = common_pb2.DROP_POLICY_NEWEST
    assert spec_of(fast).policy is DropPolicy.NEWEST


def test_everything_that_can_be_said_arrives() -> None:
    config = config_of(CAMERA, CAMERA.url)
    assert {field.name for field, _ in config.ListFields()} == set(Config.DESCRIPTOR.fields_by_name)
    assert spec_of(config) == CAMERA


@given(specs)
def test_there_and_back(spec: SourceSpec) -> None:
    assert spec_of(config_of(spec, spec.url)) == spec


def test_times_that_are_left_away_have_their_defaults() -> None:
    config = Config(name="a", url="b", tasks=DEFECT, gate=sources_pb2.MotionGate(change=0.5))
    config.reconnect.first_ms = 9_000
    spec = spec_of(config)
    assert spec.gate == Gate(0.5, 5_000)
    assert spec.reconnect == Reconnect(9_000, 9_000), "the longest wait is never below the first"
    spec.check()


@pytest.mark.parametrize("field", ["drop_policy", "transport", "pace", "decode_effort"])
def test_a_choice_that_is_not_known_names_those_that_are(field: str) -> None:
    config = Config.FromString(Config(name="a", url="b", tasks=DEFECT).SerializeToString())
    setattr(config, field, 99)
    with pytest.raises(InvalidInputError) as caught:
        spec_of(config)
    assert (caught.value.field, caught.value.value) == (field, "99")
    assert "(1)" in caught.value.fix


def test_only_what_the_mask_names_is_taken() -> None:
    update = Config(name="line-1", tasks=[common_pb2.TaskRef(task="grade")], priority=5, deadline_ms=0, rotation=180)
    assert changed(CAMERA, update, ["tasks"]) == replace(CAMERA, wants=(Want("grade"),))
    assert changed(CAMERA, update, ["priority", "rotation"]) == replace(CAMERA, priority=5, rotation=180)
    assert changed(CAMERA, update, ["deadline_ms"]) == replace(CAMERA, deadline_ms=0)


DEFAULTS: dict[str, SourceSpec] = {
    "drop_policy": CAMERA,  # as it is fast
    "loop": replace(CAMERA, loop=False),
    "deadline_ms": replace(CAMERA, deadline_ms=0),
    "priority": replace(CAMERA, priority=0),
    "transport": replace(CAMERA, transport=Transport.TCP),
    "pace": replace(CAMERA, pace=Pace.REALTIME),
    "decode_effort": replace(CAMERA, effort=Effort.AUTO),
    "rotation": replace(CAMERA, rotation=0),
    "region": replace(CAMERA, region=Region()),
    "queue_size": replace(CAMERA, queue_size=0),
    "gate": replace(CAMERA, gate=Gate()),
    "gate.change": replace(CAMERA, gate=Gate(0, 750)),
    "gate.refresh_ms": replace(CAMERA, gate=Gate(0.01, 5_000)),
    "region.left": replace(CAMERA, region=Region(0, 0.5, 0.5, 0.25)),
    "reconnect": replace(CAMERA, reconnect=Reconnect()),
    "reconnect.longest_ms": replace(CAMERA, reconnect=Reconnect(100, 2_000)),
    "paused": replace(CAMERA, paused=False),
}


@pytest.mark.parametrize("path", DEFAULTS)
def test_what_is_named_and_not_set_gets_its_default(path: str) -> None:
    assert changed(CAMERA, Config(name="line-1"), [path]) == DEFAULTS[path]


def test_every_field_of_a_source_can_be_named() -> None:
    assert {*DEFAULTS, "name", "url", "tasks"} >= set(Config.DESCRIPTOR.fields_by_name)


def test_without_a_mask_all_that_is_set_is_taken() -> None:
    update = Config(name="line-1", priority=5, gate=sources_pb2.MotionGate(change=0.5))
    assert changed(CAMERA, update) == replace(CAMERA, priority=5, gate=Gate(0.5))


@given(specs)
def test_a_source_that_is_read_and_written_back_is_the_same(spec: SourceSpec) -> None:
    spec = replace(spec, url=CAMERA.url)
    shown = config_of(spec, spec.shown_url)
    assert changed(spec, shown) == spec
    assert changed(spec, shown, [field.name for field, _ in shown.ListFields() if field.name != "name"]) == spec


def test_the_update_itself_is_left_as_it_came() -> None:
    update = Config(name="line-1")
    changed(CAMERA, update, ["gate.change"])
    assert update == Config(name="line-1")


@pytest.mark.parametrize("url", ["rtsp://camera/2", "rtsp://user:other@camera/1", "clip.mp4"])
def test_an_address_is_taken_where_it_is_named(url: str) -> None:
    update = Config(name="line-1", url=url, priority=1)
    assert changed(CAMERA, update, ["url"]).url == url
    assert changed(CAMERA, update, ["priority"]).url == CAMERA.url
    with pytest.raises(InvalidInputError, match="on request") as caught:
        changed(CAMERA, update)
    assert '"url"' in caught.value.fix


@pytest.mark.parametrize("mask", [(), ("url",), ("priority",)])
def test_the_address_as_it_is_shown_keeps_the_password(mask: tuple[str, ...]) -> None:
    assert changed(CAMERA, Config(name="line-1", url=SHOWN, priority=1), mask).url == CAMERA.url


def test_a_hidden_password_is_no_password() -> None:
    with pytest.raises(InvalidInputError, match="hidden") as caught:
        changed(CAMERA, Config(name="line-1", url="rtsp://user:***@camera/2"), ["url"])
    assert caught.value.field == "url"


@pytest.mark.parametrize("path", ["", "size", "tasks.task", "name.first", "gate.shut", "gate.change.more", "*", "Loop"])
def test_a_path_that_is_no_field_lists_the_fields(path: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        changed(CAMERA, Config(name="line-1", loop=True), ["loop", path])
    error = caught.value
    assert (error.message, error.field, error.value) == ("no such field", "update_mask", path)
    assert "tasks, drop_policy, loop, deadline_ms" in error.fix
    assert " name" not in error.fix


def test_a_name_can_not_be_changed() -> None:
    with pytest.raises(InvalidInputError, match="a name can not be changed"):
        changed(CAMERA, Config(name="line-2"), ["name"])


def test_a_change_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="nothing to change"):
        changed(CAMERA, Config(name="line-1"))


def test_a_source_keeps_at_least_one_task() -> None:
    with pytest.raises(InvalidInputError) as caught:
        changed(CAMERA, Config(name="line-1"), ["tasks"])
    assert caught.value.field == "tasks"


def test_how_it_is_doing() -> None:
    status = SourceStatus(CAMERA, SourceState.PAUSED, Account().state(), "r", 2.5, 640, 360, "h264", 7, 2, 1, 10, 20)
    told = source(status)
    assert told.config == config_of(CAMERA, SHOWN)
    assert "secret" not in str(told)
    assert (told.state, told.reason, told.fps) == (sources_pb2.SOURCE_STATE_PAUSED, "r", 2.5)
    assert (told.width, told.height, told.codec, told.skipped) == (640, 360, "h264", 7)
    assert (told.connections, told.crashes, told.state_time_ns, told.last_frame_time_ns) == (2, 1, 10, 20)
