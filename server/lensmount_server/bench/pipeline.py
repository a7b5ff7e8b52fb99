"""`lensmount bench pipeline`: from a video file to results at a client, beside what the engine alone could answer.

Decoding, scaling, the server, its client and the engine share the same cores, as they do on a machine that
serves: `ideal` is the ratio that would be left if nothing but the engine and the decoding worker used them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median, quantiles

from torch import Tensor

from lensmount.client import Client
from lensmount.errors import UnavailableError
from lensmount.results import Drops, Result
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.timing import spread
from lensmount_server.bench import clips, specimens
from lensmount_server.bench.cores import cpu_s, descendants
from lensmount_server.bench.packages import Specimen
from lensmount_server.bench.served import packages, pair, server
from lensmount_server.bench.setting import Setting, setting_of
from lensmount_server.engine.cpu.executor import CpuExecutor
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.opening import open_engine
from lensmount_server.engine.runtime import Engine
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.frames import Still

ENDS = ("ended", "failed")
BATCHES = (1, 2, 4, 8, 16)
# Frames before the first round that counts: every tail is merged by then.
WARM_UP = 700
QUEUE = 10_000
SETTLED_S = 3.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Report(Setting):
    """Frames a second of the whole server and of the engine alone; `ratio` (of each round, then the median) is theirs.

    `dropped` counts by reason what was lost in all rounds; `p50_ms` and `p99_ms` are from capture, here the
    frame's own turn to be read, to the result. `*_core_ms` are milliseconds of one core a frame: of the engine
    alone, the server with its engine, its workers, the client. `core_ratio` is the ratio in those. Beside busy
    neighbours it is the one to trust: the more processes a side has, the more of the cores they leave it.
    """

    frames: int
    answered: int
    dropped: dict[str, int]
    fps: float
    engine_fps: float
    engine_batch: int
    ratio: float
    ratio_low: float
    ratio_high: float
    core_ratio: float
    ideal: float
    p50_ms: float
    p99_ms: float
    engine_core_ms: float
    server_core_ms: float
    worker_core_ms: float
    client_core_ms: float
    rounds: int


@dataclass(frozen=True)
class _Used:
    """Seconds of one core that the server, its workers and this process have used since they began."""

    server: float
    worker: float
    own: float

    def __sub__(self, other: _Used) -> _Used:
        return _Used(self.server - other.server, self.worker - other.worker, self.own - other.own)


@dataclass(frozen=True)
class _Run:
    """One pass of the file through the server beside the engine alone; frames a second, `core_ms` a frame."""

    fps: float
    engine_fps: float
    engine_core_ms: float
    used: _Used
    results: list[Result]
    dropped: Drops


def measure(settings: EngineSettings, backbone_name: str, frames: int, rounds: int, progress: Progress) -> Report:
    """Run the bench: a minute and more."""
    progress("loading the backbone, writing packages and a clip")
    backbone = specimens.backbone_of(backbone_name)
    with tempfile.TemporaryDirectory(prefix="lensmount-bench-") as folder:
        scratch = Path(folder)
        clip = clips.write(scratch, clips.Recipe("clip", *clips.HD, clips.NO_B_FRAMES), frames)
        adapters = pair(backbone)
        made = packages(backbone, adapters, scratch)
        engine = open_engine(backbone, settings)
        try:
            alone = _Alone(engine, adapters)
            with server(backbone, settings, scratch) as served, Client(served.address) as client:
                path = _Path(client, served.pid, clip, [each.task for each in made], frames)
                path.register(made)
                runs = _in_turns(path, alone, rounds, progress)
        finally:
            engine.close()
    return _report(setting_of(engine.executor, backbone.name), runs, alone, frames)


def _in_turns(path: _Path, alone: _Alone, rounds: int, progress: Progress) -> list[_Run]:
    """The file through the server and the engine alone, in turns."""
    for number in range(-(-WARM_UP // path.frames)):
        progress(f"warming up: {number * path.frames} frames")
        path.run()
    time.sleep(SETTLED_S)
    runs = []
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        if number % 2:
            engine = alone.run(path.frames)
            runs.append(path.run(*engine))
        else:
            run = path.run()
            engine_fps, core_ms = alone.run(path.frames)
            runs.append(replace(run, engine_fps=engine_fps, engine_core_ms=core_ms))
    return runs


@dataclass(frozen=True)
class _Path:
    """A server, and the file that goes through it to a client."""

    client: Client
    server: int
    clip: Path
    tasks: Sequence[str]
    frames: int

    def register(self, made: Sequence[Specimen]) -> None:
        """Make the tasks live."""
        for each in made:
            self.client.register(each.archive, alias="live")

    def run(self, engine_fps: float = 0.0, engine_core_ms: float = 0.0) -> _Run:
        """Every frame of the file; frames a second from the first result to the last."""
        results: list[Result] = []
        times: list[float] = []
        self.client.add_source("bench", str(self.clip), self.tasks, drop_policy="every_frame", pace="fast", paused=True)
        before = self._used()
        with self.client.watch(["bench"], queue_size=QUEUE) as watch:
            self.client.resume_source("bench")
            for item in watch:
                if isinstance(item, Result):
                    results.append(item)
                    if item.task == self.tasks[0]:
                        times.append(time.perf_counter())
                elif item.state in ENDS:
                    break
        used = self._used() - before
        source = self.client.source("bench")
        self.client.remove_source("bench")
        if len(times) < 2:
            raise UnavailableError("the server gave no results", field="source", value=source.state, fix=source.reason)
        fps = (len(times) - 1) / (times[-1] - times[0])
        return _Run(fps, engine_fps, engine_core_ms, used, results, source.dropped)

    def _used(self) -> _Used:
        return _Used(cpu_s(self.server), sum(map(cpu_s, descendants(self.server))), time.process_time())


class _Alone:
    """The engine in this process, on prepared pictures, in the batch size that is best for it."""

    def __init__(self, engine: Engine, adapters: Sequence[Adapter]) -> None:
        self._engine = engine
        self._adapters = tuple(adapters)
        self._pictures = list(specimens.pictures(engine.backbone, max(BATCHES)))
        for adapter in adapters:
            engine.mount(adapter)
            if isinstance(engine.executor, CpuExecutor):
                engine.executor.merge(adapter.content_hash)
        engine.settle()
        self.batch = 1
        self.batch = max(BATCHES, key=lambda batch: median(self._fps(batch, 8 * batch) for _ in range(5)))

    def run(self, frames: int) -> tuple[float, float]:
        """Frames a second over so many frames, and milliseconds of one core a frame."""
        before = time.process_time()
        fps = self._fps(self.batch, frames)
        ran = -(-frames // self.batch) * self.batch
        return fps, (time.process_time() - before) / ran * 1e3

    def _fps(self, batch: int, frames: int) -> float:
        jobs = [self._job(picture) for picture in self._pictures[:batch]]
        times = -(-frames // batch)
        start = time.perf_counter()
        for _ in range(times):
            self._engine.run(jobs)
        return times * batch / (time.perf_counter() - start)

    def _job(self, picture: Tensor) -> Job:
        still = Still(picture.permute(1, 2, 0).contiguous().numpy())
        return Job(still, self._adapters, {self._engine.backbone.preprocessing: picture})


def _report(setting: Setting, runs: Sequence[_Run], alone: _Alone, frames: int) -> Report:
    total_ms = [result.timings.total_ms for run in runs for result in run.results]
    ratio = spread([run.fps / run.engine_fps for run in runs])
    dropped = {each.name: sum(getattr(run.dropped, each.name) for run in runs) for each in fields(Drops)}
    tasks = len({result.task for result in runs[0].results})
    engine_core_ms = median(run.engine_core_ms for run in runs)
    server_core_ms, worker_core_ms, client_core_ms = (
        median(used) / frames * 1e3
        for used in zip(*((run.used.server, run.used.worker, run.used.own) for run in runs), strict=True)
    )
    return Report(
        **asdict(setting),
        frames=frames * len(runs),
        answered=len(total_ms) // tasks,
        dropped={reason: count for reason, count in dropped.items() if count},
        fps=round(median(run.fps for run in runs), 1),
        engine_fps=round(median(run.engine_fps for run in runs), 1),
        engine_batch=alone.batch,
        ratio=round(ratio.median, 3),
        ratio_low=round(ratio.low, 3),
        ratio_high=round(ratio.high, 3),
        core_ratio=round(engine_core_ms / (server_core_ms + worker_core_ms + client_core_ms), 3),
        ideal=round(engine_core_ms / (engine_core_ms + worker_core_ms), 3),
        p50_ms=round(median(total_ms), 1),
        p99_ms=round(quantiles(total_ms, n=100, method="inclusive")[-1], 1),
        engine_core_ms=round(engine_core_ms, 2),
        server_core_ms=round(server_core_ms, 2),
        worker_core_ms=round(worker_core_ms, 2),
        client_core_ms=round(client_core_ms, 2),
        rounds=len(runs),
    )
