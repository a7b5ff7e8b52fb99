"""From protobuf messages to `lensmount.sources`; the only place that knows both."""

from __future__ import annotations

from lensmount.convert import drops
from lensmount.results import DropPolicy
from lensmount.sources import DecodeEffort, Pace, Region, Source, SourceState, Transport
from lensmount.tasks import TaskRef
from lensmount.v1 import common_pb2, sources_pb2

_STATES = {
    number: SourceState(name.removeprefix("SOURCE_STATE_").lower()) for name, number in sources_pb2.SourceState.items()
}
_EFFORTS = {sources_pb2.DecodeEffort.Value(f"DECODE_EFFORT_{each.name}"): each for each in DecodeEffort}


def source(message: sources_pb2.Source) -> Source:
    """A source with its state; what a server of another release says of choices is read as the default."""
    config = message.config
    udp, fast = config.transport == sources_pb2.TRANSPORT_UDP, config.pace == sources_pb2.PACE_FAST
    every_frame = config.drop_policy == common_pb2.DROP_POLICY_EVERY_FRAME
    return Source(
        name=config.name,
        url=config.url,
        tasks=tuple(_task_ref(each) for each in config.tasks),
        drop_policy=DropPolicy.EVERY_FRAME if every_frame else DropPolicy.NEWEST,
        loop=config.loop,
        state=_STATES.get(message.state, SourceState.UNSPECIFIED),
        reason=message.reason,
        decoded=message.decoded,
        answered=message.answered,
        dropped=drops(message.dropped),
        fps=message.fps,
        width=message.width,
        height=message.height,
        deadline_ms=config.deadline_ms,
        priority=config.priority,
        transport=Transport.UDP if udp else Transport.TCP,
        pace=Pace.FAST if fast else Pace.REALTIME,
        decode_effort=_EFFORTS.get(config.decode_effort, DecodeEffort.AUTO),
        rotation=config.rotation,
        region=_region(config),
        queue_size=config.queue_size,
        gate=config.gate.change,
        gate_refresh_ms=config.gate.refresh_ms,
        reconnect_first_ms=config.reconnect.first_ms,
        reconnect_longest_ms=config.reconnect.longest_ms,
        paused=config.paused,
        codec=message.codec,
        skipped=message.skipped,
        connections=message.connections,
        crashes=message.crashes,
        state_time_ns=message.state_time_ns,
        last_frame_time_ns=message.last_frame_time_ns,
    )


def source_list(message: sources_pb2.ListSourcesResponse) -> list[Source]:
    """All sources."""
    return [source(each) for each in message.sources]


def _region(config: sources_pb2.SourceConfig) -> Region:
    told = config.region
    return Region(told.left, told.top, told.width, told.height) if config.HasField("region") else Region()


def _task_ref(message: common_pb2.TaskRef) -> TaskRef:
    return TaskRef(message.task, message.alias or "live", message.version, message.max_fps)
