"""From glass to result: how much later than FFmpeg alone delivers a frame its result comes, inference aside.

    PYTHONPATH=tests python -m benchmarks.rtsp_delay

A real RTSP server sends 720p at 30 frames a second, and every picture shows the time at which it was drawn. A plain
PyAV reader and a lensmount server with one light task read it at the same time. The plain reader reads
the time off each of its pictures; lensmount's results are given the times of the same pictures: both readers see
the same timestamps but for a constant, which is found from when packets arrived. So nothing is asked of
lensmount that it does not do anyway.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from dataclasses import asdict, dataclass
from statistics import median

import av
from av.video.stream import VideoStream

from benchmarks.live import Seen, Watcher, live, percentile
from lensmount.sources import SourceState
from rtsp_server import RtspServer, Shape, drawn_at_s

SHAPE = Shape(1280, 720, 30, clock=True)
ENCODER = "tune=zerolatency speed-preset=ultrafast key-int-max=30"
OPTIONS = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay"}
SETTLED_S = 3.0


@dataclass(frozen=True)
class Picture:
    """A picture that the plain reader got; times in seconds."""

    pts_s: float
    drawn_s: float
    arrived_s: float
    decoded_s: float


@dataclass(frozen=True)
class Report:
    """Milliseconds from when a picture was drawn; `added`: what lensmount adds to the plain reader, inference aside."""

    pictures: int
    results: int
    plain_p50_ms: float
    plain_p95_ms: float
    result_p50_ms: float
    result_p95_ms: float
    inference_p50_ms: float
    added_p50_ms: float
    added_low_ms: float
    added_high_ms: float


class PlainReader(threading.Thread):
    """FFmpeg with the options that are best for delay, and nothing else."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.pictures: list[Picture] = []
        self._url = url
        self._over = threading.Event()

    def run(self) -> None:
        with av.open(self._url, options=OPTIONS) as container:
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"
            for packet in container.demux(stream):
                self._take(packet)
                if self._over.is_set():
                    return

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _take(self, packet: av.Packet[VideoStream]) -> None:
        arrived_s = time.time()
        for frame in packet.decode():
            decoded_s = time.time()
            row = memoryview(frame.planes[0])[: frame.width]
            assert frame.time is not None
            self.pictures.append(Picture(frame.time, drawn_at_s(row.tolist(), decoded_s), arrived_s, decoded_s))


def measure(seconds: float) -> Report:
    """Both readers at once, for so long."""
    with RtspServer(ENCODER, shape=SHAPE) as camera, live() as running:
        plain = PlainReader(camera.url)
        plain.start()
        running.client.add_source("camera", camera.url, running.tasks[-1:])
        running.reach("camera", SourceState.LIVE)
        time.sleep(SETTLED_S)
        with Watcher(running.client) as watcher:
            time.sleep(seconds)
        plain.stop()
    return _report(plain.pictures, watcher.seen)


def _report(pictures: list[Picture], seen: list[Seen]) -> Report:
    first_s = seen[0].result.capture_time_ns / 1e9 - SETTLED_S
    late = [each for each in pictures if each.arrived_s > first_s]
    drawn = {round(each.pts_s * 1e3): each.drawn_s for each in pictures}
    offset_s = median(_nearest(late, each).pts_s - each.result.pts_ns / 1e9 for each in seen)
    pairs = [(each, _drawn_s(drawn, each.result.pts_ns / 1e9 + offset_s)) for each in seen]
    matched = [(each, drawn_s) for each, drawn_s in pairs if drawn_s]
    plain_ms = [(each.decoded_s - each.drawn_s) * 1e3 for each in late]
    result_ms = [(each.at_s - drawn_s) * 1e3 for each, drawn_s in matched]
    inference_ms = [each.result.timings.inference_ms for each, _ in matched]
    baseline = median(plain_ms)
    added_ms = [whole - inner - baseline for whole, inner in zip(result_ms, inference_ms, strict=True)]
    figures = [
        *(median(plain_ms), percentile(plain_ms, 95)),
        *(median(result_ms), percentile(result_ms, 95)),
        median(inference_ms),
        *(median(added_ms), percentile(added_ms, 25), percentile(added_ms, 75)),
    ]
    return Report(len(late), len(matched), *(round(figure, 1) for figure in figures))


def _nearest(pictures: list[Picture], seen: Seen) -> Picture:
    """The picture whose packet arrived when this result's did."""
    return min(pictures, key=lambda each: abs(each.arrived_s - seen.result.capture_time_ns / 1e9))


def _drawn_s(drawn: dict[int, float], pts_s: float) -> float | None:
    """When the picture of that timestamp was drawn; they are rounded in two ways."""
    stamp = round(pts_s * 1e3)
    return next((drawn[each] for each in (stamp, stamp - 1, stamp + 1) if each in drawn), None)


def main() -> None:
    """Print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    print(json.dumps(asdict(measure(parser.parse_args().seconds))))


if __name__ == "__main__":
    main()
