"""What a pushed stream sends: its config, then units, pictures or frames, at their own pace or at once."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from lensmount import pictures
from lensmount.calls import wire_policy, wire_task_refs
from lensmount.errors import InvalidInputError
from lensmount.pictures import Pixels
from lensmount.tasks import Tasks
from lensmount.terms import deadline_number, priority_number
from lensmount.v1 import inference_pb2
from lensmount.video import AccessUnit, access_units

# One message's worth of video: an access unit, an encoded picture, or RGB pixels.
Item = AccessUnit | bytes | Pixels

_CODECS = {"h264": inference_pb2.CODEC_H264, "h265": inference_pb2.CODEC_H265}


def stream_config(
    tasks: Tasks, *, name: str, drop_policy: str, with_jpeg: bool, deadline_ms: int, priority: int
) -> inference_pb2.StreamConfig:
    """A stream's config but for the codec, which the first item tells."""
    return inference_pb2.StreamConfig(
        name=name,
        tasks=wire_task_refs(tasks),
        drop_policy=wire_policy(drop_policy),
        with_jpeg=with_jpeg,
        deadline_ms=deadline_number(deadline_ms),
        priority=priority_number(priority),
    )


def items(frames_or_path: str | os.PathLike[str] | Iterable[Item], fps: float) -> Iterable[Item]:
    """The items of a path or an iterable; InvalidInputError for what is no video."""
    if isinstance(frames_or_path, str | os.PathLike):
        return access_units(frames_or_path, fps)
    single = isinstance(frames_or_path, bytes) or (isinstance(frames_or_path, np.ndarray) and frames_or_path.ndim < 4)
    if single or not isinstance(frames_or_path, Iterable):
        fix = "give a path or an iterable of frames; infer() takes a single picture"
        raise InvalidInputError("not a video", field="frames", value=type(frames_or_path).__name__, fix=fix)
    return frames_or_path


class Packer:
    """Turns items into a stream's messages: the config with the first, then one message an item.

    `fps` is the nominal rate of pictures and frames, which carry no time of their own.
    Every item must be of the first one's kind.
    """

    def __init__(self, config: inference_pb2.StreamConfig, fps: float) -> None:
        if not fps > 0:
            raise InvalidInputError("not a rate", field="fps", value=fps, fix="give frames a second, for example 25")
        self._config = config
        self._frame_ns = 1e9 / fps
        self._count = 0

    def pack(self, item: Item) -> list[inference_pb2.StreamInferRequest]:
        """The messages for the next item; InvalidInputError for what is no item of this stream."""
        codec = _codec(item)
        head = [] if self._count else [self._start(item, codec)]
        if codec != self._config.codec:
            fix = "send another stream for another kind"
            raise InvalidInputError("another kind than the first", field="frames", value=_kind(item), fix=fix)
        message = _message(item, round(self._count * self._frame_ns))
        self._count += 1
        return [*head, message]

    def finish(self) -> None:
        """The items ended; InvalidInputError when there was none."""
        if not self._count:
            raise InvalidInputError("no frame came", field="frames", fix="give at least one frame")

    def _start(self, item: Item, codec: inference_pb2.Codec.ValueType) -> inference_pb2.StreamInferRequest:
        self._config.codec = codec
        if isinstance(item, AccessUnit):
            self._config.extradata = item.extradata
        return inference_pb2.StreamInferRequest(config=self._config)


class Pacer:
    """Holds messages back until their time: a recording is sent as a camera would."""

    def __init__(self) -> None:
        self._zero_s: float | None = None

    def delay_s(self, message: inference_pb2.StreamInferRequest, now_s: float) -> float:
        """Seconds to wait before sending; the first message is due at once, a late one too."""
        if message.WhichOneof("message") == "config":
            return 0.0
        due_s = _due_ns(message) / 1e9
        if self._zero_s is None:
            self._zero_s = now_s - due_s
        return max(0.0, self._zero_s + due_s - now_s)


def _due_ns(message: inference_pb2.StreamInferRequest) -> int:
    if message.HasField("packet"):
        return message.packet.dts_ns
    return message.encoded.pts_ns if message.HasField("encoded") else message.raw.pts_ns


def _codec(item: Item) -> inference_pb2.Codec.ValueType:
    if isinstance(item, AccessUnit):
        return _CODECS[item.codec]
    if isinstance(item, bytes):
        return inference_pb2.CODEC_JPEG
    if isinstance(item, np.ndarray):
        return inference_pb2.CODEC_RAW
    fix = "give uint8 arrays of shape (height, width, 3), JPEG bytes, or access units"
    raise InvalidInputError("not a frame", field="frames", value=_kind(item), fix=fix)


def _message(item: Item, pts_ns: int) -> inference_pb2.StreamInferRequest:
    if isinstance(item, AccessUnit):
        packet = inference_pb2.VideoPacket(data=item.data, pts_ns=item.pts_ns, dts_ns=item.dts_ns)
        return inference_pb2.StreamInferRequest(packet=packet)
    if isinstance(item, bytes):
        return inference_pb2.StreamInferRequest(encoded=pictures.encoded(item, pts_ns))
    return inference_pb2.StreamInferRequest(raw=pictures.raw(item, pts_ns))


def _kind(item: object) -> str:
    return item.codec if isinstance(item, AccessUnit) else type(item).__name__
