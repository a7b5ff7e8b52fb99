"""What a stream adds up to while its answers come in; shared by both clients."""

from __future__ import annotations

from lensmount import convert, source_convert
from lensmount.results import Drops, Result, StreamStarted, StreamSummary
from lensmount.sources import Source
from lensmount.v1 import inference_pb2, sources_pb2


class StreamAccount:
    """The account of a pushed stream."""

    _started: StreamStarted | None = None
    _summary: StreamSummary | None = None
    _dropped = Drops()

    @property
    def started(self) -> StreamStarted | None:
        """The stream's name and the versions that answered at its start; None before the server accepted it."""
        return self._started

    @property
    def summary(self) -> StreamSummary | None:
        """The server's account; None before the stream's end."""
        return self._summary

    @property
    def dropped(self) -> Drops:
        """Frames lost so far, as the server gave notice; at the end as its summary says."""
        return self._dropped

    def _take(self, message: inference_pb2.StreamInferResponse) -> Result | None:
        match message.WhichOneof("message"):
            case "started":
                self._started = convert.stream_started(message.started)
            case "dropped":
                self._dropped += convert.drops(message.dropped.dropped)
            case "summary":
                self._summary = convert.stream_summary(message.summary)
                self._dropped = self._summary.dropped
            case "result":
                return convert.result(message.result)
        return None


class WatchAccount:
    """The account of a subscription."""

    _lost = 0

    @property
    def lost(self) -> int:
        """Results that this subscriber lost because it read too slowly."""
        return self._lost

    def _take(self, message: sources_pb2.WatchResultsResponse) -> Result | Source | None:
        self._lost += message.lost
        match message.WhichOneof("message"):
            case "result":
                return convert.result(message.result)
            case "source":
                return source_convert.source(message.source)
        return None
