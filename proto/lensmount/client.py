"""The blocking client."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc

from lensmount import calls, results, source_calls
from lensmount.adapter_methods import AdapterMethods
from lensmount.calls import Unary
from lensmount.channel import CHANNEL_OPTIONS, DEFAULT_ADDRESS, Metadata, who
from lensmount.errors import DeadlineError
from lensmount.feed import Item, Packer, items, stream_config
from lensmount.pictures import Picture
from lensmount.sources import Source, SourceChanges, SourceOptions
from lensmount.status import from_rpc_error
from lensmount.streams import Stream, Watch
from lensmount.tasks import Tasks
from lensmount.v1.inference_pb2_grpc import InferenceServiceStub
from lensmount.v1.sources_pb2_grpc import SourceServiceStub

AnswerT = TypeVar("AnswerT")


class Client(AdapterMethods):
    """A connection to a lensmount server; use it in a `with` block, or close it.

    It connects with the first call, from any number of threads. `timeout` is the limit of
    each call but streams, in seconds; None waits for ever. `actor` is who asks, for the server's
    journal (your login name when None, nobody when ""). Every method raises a
    `LensmountError`: the server's own, or what the connection says.

    A task is written `defect`, `defect@canary` (an alias) or `defect:3` (a pinned version); on a
    stream `defect/5fps` looks at no more than five frames a second.
    """

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, timeout: float | None = 60.0, actor: str | None = None
    ) -> None:
        self.address = address
        self._caller = who(actor)
        self._timeout = timeout
        self._open_channel: grpc.Channel | None = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; streams still open end."""
        if self._open_channel is not None:
            self._open_channel.close()
        self._open_channel = None

    def infer(self, image: Picture, tasks: Tasks, *, timeout: float | None = None) -> list[results.Result]:
        """One picture, one result per task in the order asked.

        `image` is a path, the bytes of a JPEG, PNG, WebP or BMP, or uint8 RGB of shape
        (height, width, 3), which is sent as it is. The server refuses at once, with DeadlineError, what
        it can not answer within `timeout` seconds (the client's when None).
        """
        return self._unary(calls.infer(image, tasks), timeout=timeout)

    def stream(  # noqa: PLR0913 - everything that can be said of a stream, by keyword
        self,
        frames_or_path: str | os.PathLike[str] | Iterable[Item],
        tasks: Tasks,
        *,
        name: str = "",
        drop_policy: str = "every_frame",
        realtime: bool = False,
        with_jpeg: bool = False,
        fps: float = 25.0,
        deadline_ms: int = 0,
        priority: int = 0,
    ) -> Stream:
        """Push a video; iterate over the `Stream` for its results.

        A path is a video file with H.264 or H.265, sent without transcoding (needs the extra
        `video`). An iterable gives uint8 RGB arrays of shape (height, width, 3), JPEG bytes, or
        `AccessUnit`s; it is read from another thread, and only as fast as the server takes it.
        `realtime` sends at the video's own pace. `fps` is the nominal rate of what carries no
        timestamps. `with_jpeg` returns each frame with its results. A frame that can not be answered
        `deadline_ms` after its capture is dropped as late (0: it has all the time); a stream of higher
        `priority` (-10 to 10) goes first.
        """
        config = stream_config(
            tasks,
            name=name,
            drop_policy=drop_policy,
            with_jpeg=with_jpeg,
            deadline_ms=deadline_ms,
            priority=priority,
        )
        open_call = InferenceServiceStub(self._channel).StreamInfer
        packer = Packer(config, fps)
        return Stream(open_call, items(frames_or_path, fps), packer, realtime=realtime, address=self.address)

    def add_source(self, name: str, url: str, tasks: Tasks, **options: Unpack[SourceOptions]) -> Source:
        """Have the server pull a video: rtsp://…, http://…, rtmp://…, srt://… or the path of a file on the server.

        `folder:PATH` is a folder of pictures there, `usb:0` a camera. Options, each with its default:

        - `loop` (False): a file starts again at its end.
        - `drop_policy` ("newest"; "every_frame" where pace="fast"), `queue_size` (0: 4): with "every_frame" so many
          frames may wait, and the video is read no faster than it is answered.
        - `deadline_ms` (0: none), `priority` (0): as those of `stream`.
        - `transport` ("tcp"): of RTSP; "udp" waits for no lost packet.
        - `pace` ("realtime"): "fast" reads a file as fast as it is answered.
        - `decode_effort` ("auto": what the tasks' rates need): "all", "reference" or "key" pictures only.
        - `rotation` (0): 90, 180 or 270 degrees, clockwise.
        - `region` (None: all): what tasks look at, (left, top, width, height) in shares of the turned picture.
        - `gate` (0: none): the last answer is repeated, as `reused`, while no more than this share of the picture
          changes, for no longer than `gate_refresh_ms` (5000). 0.01 is a good start.
        - `reconnect_first_ms` (250), `reconnect_longest_ms` (2000): the wait before a lost camera is tried again.
        - `paused` (False): keep it, and do not pull it before `resume_source`.
        """
        return self._unary(source_calls.add_source(name, url, tasks, options))

    def update_source(self, name: str, **changes: Unpack[SourceChanges]) -> Source:
        """Change a source while it runs: `url`, `tasks` or any option of `add_source`.

        What is not given stays as it is: `client.update_source("line-1", tasks=["defect", "scene/1fps"])`.
        """
        return self._unary(source_calls.update_source(name, changes))

    def pause_source(self, name: str) -> Source:
        """Stop pulling a source, and keep it with its account."""
        return self._unary(source_calls.pause_source(name))

    def resume_source(self, name: str) -> Source:
        """Pull a paused source again."""
        return self._unary(source_calls.resume_source(name))

    def remove_source(self, name: str) -> None:
        """Stop pulling a source and forget it."""
        self._unary(source_calls.remove_source(name))

    def sources(self) -> list[Source]:
        """All sources with their states."""
        return self._unary(source_calls.sources())

    def source(self, name: str) -> Source:
        """One source with its state."""
        return self._unary(source_calls.source(name))

    def watch(
        self,
        sources: Iterable[str] = (),
        tasks: Iterable[str] = (),
        *,
        with_jpeg: bool = False,
        queue_size: int = 0,
    ) -> Watch:
        """Results of these sources and tasks (all when empty), and sources whose state changed.

        A reader that is too slow loses its own oldest results, counted in `lost`; `queue_size`
        results may wait for it (the server's default when 0).
        """
        request = calls.watch_request(sources, tasks, with_jpeg=with_jpeg, queue_size=queue_size)
        open_call = SourceServiceStub(self._channel).WatchResults
        return Watch(lambda: open_call(request), self.address)

    def info(self) -> results.ServerInfo:
        """What the server runs on, and how much it has run."""
        return self._unary(calls.info())

    def wait_ready(self, timeout: float = 30.0) -> results.ServerInfo:
        """Wait until a server answers, for so many seconds; UnavailableError when none does."""
        try:
            return self._unary(calls.info(), timeout=timeout, wait_for_ready=True)
        except DeadlineError as error:
            raise calls.not_ready(self.address, timeout) from error

    @property
    def _metadata(self) -> Metadata:
        return self._caller

    @property
    def _channel(self) -> grpc.Channel:
        if self._open_channel is None:
            raise calls.closed()
        return self._open_channel

    def _unary(
        self, call: Unary[AnswerT], *, timeout: float | None = None, wait_for_ready: bool | None = None
    ) -> AnswerT:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(call.path)
        try:
            answer = method(
                call.payload, timeout=timeout or self._timeout, wait_for_ready=wait_for_ready, metadata=self._caller
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.address) from error
        return call.parse(answer)
