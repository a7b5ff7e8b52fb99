from __future__ import annotations

from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import Any, cast

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from lensmount import convert, results, source_convert
from lensmount.sources import DecodeEffort, Pace, Region, SourceChanges, SourceState, Transport
from lensmount.tasks import TaskRef
from lensmount.v1 import adapters_pb2, common_pb2, inference_pb2, sources_pb2

# Message, its reader, and the wire fields that have another name or place in the result.
MIRRORS = [
    (common_pb2.AdapterVersion, convert.adapter_version, {}),
    (common_pb2.Drops, convert.drops, {}),
    (common_pb2.Result, convert.result, {}),
    (inference_pb2.StreamStarted, convert.stream_started, {}),
    (inference_pb2.StreamSummary, convert.stream_summary, {}),
    (adapters_pb2.Adapter, convert.adapter, {"version": {"task", "version", "content_hash"}, "pinned": {"pin_reason"}}),
    (adapters_pb2.RegisterAdapterResponse, convert.registration, {"alias": {"alias_change"}}),
    (adapters_pb2.AdapterEvent, convert.adapter_event, {"adapter": {"adapter"}}),
    (adapters_pb2.CollectAdaptersResponse, convert.collected, {}),
    (adapters_pb2.SetAliasResponse, convert.alias_change, {}),
    (
        sources_pb2.Source,
        source_convert.source,
        {"config": {*SourceChanges.__optional_keys__, "name"}},
    ),
    (inference_pb2.EngineCandidate, convert.engine_candidate, {}),
    (inference_pb2.EngineInfo, convert.engine_info, {}),
    (inference_pb2.ResidencyState, convert.residency_state, {}),
    (inference_pb2.ServerInfo, convert.server_info, {}),
]


def fill(message: Message) -> None:
    """Give every field a value other than its default."""
    for number, field in enumerate(cast("Sequence[FieldDescriptor]", message.DESCRIPTOR.fields), start=1):
        if field.message_type and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[f"name{number}"] = value(field.message_type.fields_by_name["value"], number)
        elif field.message_type:
            inner = getattr(message, field.name)
            fill(inner.add() if field.is_repeated else inner)
        elif field.is_repeated:
            getattr(message, field.name).append(value(field, number))
        else:
            setattr(message, field.name, value(field, number))


def value(field: FieldDescriptor, number: int) -> Any:
    samples: dict[int, Any] = {
        FieldDescriptor.CPPTYPE_STRING: b"bytes" if field.type == FieldDescriptor.TYPE_BYTES else f"{field.name}-x",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_DOUBLE: number + 0.5,
        FieldDescriptor.CPPTYPE_FLOAT: number + 0.5,
        FieldDescriptor.CPPTYPE_ENUM: 1,
    }
    return samples.get(field.cpp_type, number + 10)


def leaves(result: Any) -> set[Any]:
    if is_dataclass(result):
        return set().union(*(leaves(getattr(result, field.name)) for field in fields(result)))
    if isinstance(result, tuple):
        return set().union(*map(leaves, result))
    return {(key, each) for key, each in result.items()} if isinstance(result, dict) else {result}


@pytest.mark.parametrize(("kind", "read", "elsewhere"), MIRRORS)
def test_every_wire_field_has_its_place(kind: type[Message], read: Any, elsewhere: dict[str, set[str]]) -> None:
    message = kind()
    fill(message)
    result = read(message)
    names = {name for field in kind.DESCRIPTOR.fields for name in elsewhere.get(field.name, {field.name})}
    assert {field.name for field in fields(result)} == names
    assert not leaves(result) & {0, "", b""}, "a field was left at its default"


@pytest.mark.parametrize(("kind", "read", "_"), MIRRORS)
def test_results_are_frozen_and_hold_no_protobuf(kind: type[Message], read: Any, _: object) -> None:
    message = kind()
    fill(message)
    result = read(message)
    assert not any(type(leaf).__module__.startswith(("google", "lensmount.v1")) for leaf in leaves(result))
    with pytest.raises(FrozenInstanceError):
        setattr(result, fields(result)[0].name, None)
    with pytest.raises((AttributeError, TypeError)):
        result.something_else = 1


def test_a_result_knows_its_answer() -> None:
    scores = [common_pb2.LabelScore(label="good", score=0.25), common_pb2.LabelScore(label="bad", score=0.75)]
    adapter = common_pb2.AdapterVersion(task="defect", version=3)
    result = convert.result(common_pb2.Result(adapter=adapter, scores=scores, labels=["bad", "good"]))
    assert (result.task, result.version, result.label, result.score) == ("defect", 3, "bad", 0.75)


def test_a_result_may_have_no_answer() -> None:
    scores = [common_pb2.LabelScore(label="bad", score=0.25)]
    result = convert.result(common_pb2.Result(scores=scores))
    assert (result.label, result.score) == ("", 0.0)


def test_drops_add_up() -> None:
    drops = results.Drops(1, 2, 3, 4, 5, 6)
    assert drops.total == 21
    assert drops + results.Drops(late=1) == results.Drops(1, 3, 3, 4, 5, 6)


@pytest.mark.parametrize("number", sources_pb2.SourceState.values())
def test_every_state_has_a_name(number: sources_pb2.SourceState.ValueType) -> None:
    state = source_convert.source(sources_pb2.Source(state=number)).state
    assert f"SOURCE_STATE_{state.upper()}" == sources_pb2.SourceState.Name(number)


def test_the_state_of_a_later_release_is_unspecified() -> None:
    message = sources_pb2.Source.FromString(b"\x10\x63")  # state = 99
    assert source_convert.source(message).state is SourceState.UNSPECIFIED


def test_what_the_wire_leaves_out_has_its_default() -> None:
    config = sources_pb2.SourceConfig(
        tasks=[common_pb2.TaskRef(task="defect"), common_pb2.TaskRef(task="a", version=2)]
    )
    source = source_convert.source(sources_pb2.Source(config=config))
    assert source.tasks == (TaskRef("defect"), TaskRef("a", version=2))
    assert source.drop_policy is results.DropPolicy.NEWEST
    assert (source.transport, source.pace, source.decode_effort) == (Transport.TCP, Pace.REALTIME, DecodeEffort.AUTO)
    assert (source.region, source.gate, source.paused) == (Region(0, 0, 1, 1), 0, False)


def test_choices_are_read_by_name() -> None:
    config = sources_pb2.SourceConfig(
        transport=sources_pb2.TRANSPORT_UDP, pace=sources_pb2.PACE_FAST, decode_effort=sources_pb2.DECODE_EFFORT_KEY
    )
    source = source_convert.source(sources_pb2.Source(config=config))
    assert (source.transport, source.pace, source.decode_effort) == ("udp", "fast", "key")


def test_trunk_passes_a_frame() -> None:
    assert results.EngineCounters(2, 10, 20, (12, 20)).trunk_passes_per_frame == 1.2
    assert results.EngineCounters(0, 0, 0, ()).trunk_passes_per_frame == 0.0
