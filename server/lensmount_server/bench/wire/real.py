"""A task as people have them, with LoRA in the last blocks of a backbone of the usual size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lensmount.client import Client
from lensmount_adapters.adapter import Adapter, fit
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.package import read_package
from lensmount_server.bench import specimens
from lensmount_server.bench.packages import Specimen, Writer
from lensmount_server.bench.served import pair, server
from lensmount_server.bench.wire import tritonserver
from lensmount_server.bench.wire.case import Case, case_of
from lensmount_server.bench.wire.front import pictures
from lensmount_server.bench.wire.load import Finding, Order
from lensmount_server.bench.wire.loading import loading
from lensmount_server.bench.wire.turns import OTHER, OURS, Run, Setting, in_turns, repeated
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.opening import open_engine
from lensmount_server.engine.runtime import Engine
from lensmount_server.export.triton import export_triton
from lensmount_server.frames import Still
from lensmount_server.scheduling import MAX_BATCH, best_batch
from lensmount_server.triton.fleet import Fleet
from lensmount_server.triton.opening import open_triton
from lensmount_server.triton.wire import MODEL

TASK, IN_FLIGHT, BATCH = "real", 16, 8
# Pictures of a round, as a part of the requests of one with a trivial task.
SLOWER = 4


@dataclass(frozen=True)
class Real:
    """A backbone, a task on it, and the same engine in this process."""

    setting: Setting
    backbone: Backbone
    made: Specimen
    adapter: Adapter
    engine: Engine
    scratch: Path

    def front(self) -> Case:
        """The KServe front with a server's own engine, beside the engine in this process on batches of that size."""
        table = self.engine.batch_ms
        batch = min(best_batch(table) if table else MAX_BATCH, IN_FLIGHT)
        scores = self.made.expected.softmax(-1)
        with (
            server(self.backbone, self.setting.engine, self.scratch) as served,
            loading(pictures(self.backbone), scores, self.scratch) as load,
        ):
            with Client(served.address) as client:
                client.register(self.made.archive, alias="live")
            order = Order(served.address, TASK, stream=False, in_flight=IN_FLIGHT, requests=_requests(self.setting))
            sides: dict[str, Run] = {OURS: partial(load.run, order), OTHER: self._answering(self.engine, batch)}
            return self._case("engine_16", f"the engine in process, batches of {batch}", sides)

    def backend(self, hosted: Engine) -> Case:
        """The engine in a Triton beside the one in this process."""
        sides = {OURS: self._answering(hosted, BATCH), OTHER: self._answering(self.engine, BATCH)}
        return self._case("triton_backend", f"the engine in process, batches of {BATCH}", sides)

    def memory(self, hosted: Engine) -> Case:
        """Pictures through shared memory beside pictures in gRPC messages."""
        run = self._answering(hosted, BATCH)
        sides = {OURS: _by(hosted, run, shared=True), OTHER: _by(hosted, run, shared=False)}
        return self._case("shared_memory", f"gRPC messages, batches of {BATCH}", sides)

    @contextmanager
    def hosted(self, triton: tritonserver.Installed) -> Iterator[Engine]:
        """The engine in a Triton, with the task mounted."""
        repository = self.scratch / "hosted"
        repository.mkdir()
        export_triton(repository, self.backbone, self.setting.engine)
        with tritonserver.running(triton, repository, [MODEL], self.scratch) as url:
            engine = open_triton(self.backbone, [url], {self.made.content_hash: self.scratch / TASK}.__getitem__)
            try:
                engine.mount(self.adapter)
                engine.settle(self.adapter.content_hash)
                yield engine
            finally:
                engine.close()

    def _answering(self, engine: Engine, batch: int) -> Run:
        shown = pictures(self.backbone)
        rows = [self.backbone.preprocessing.prepare(each) for each in shown]
        own = [place % len(shown) for place in range(batch)]
        jobs = [Job(Still(shown[each]), (self.adapter,), {self.backbone.preprocessing: rows[each]}) for each in own]
        return repeated(partial(engine.run, jobs), max(_requests(self.setting) // batch, 2), batch)

    def _case(self, name: str, beside: str, sides: dict[str, Run]) -> Case:
        found = in_turns(sides, self.setting.rounds, partial(self.setting.tell, name))
        return case_of(name, beside, found[OURS], found[OTHER])


def cases(
    setting: Setting, names: Collection[str], triton: tritonserver.Installed | None, scratch: Path
) -> Iterator[Case]:
    """Those of the cases with a real task that are in `names`; the last two need a Triton."""
    if not {"engine_16", *HOSTED} & {*names}:
        return
    with _real(setting, scratch) as real:
        if "engine_16" in names:
            yield real.front()
        if triton is not None and {*HOSTED} & {*names}:
            with real.hosted(triton) as hosted:
                yield from (HOSTED[name](real, hosted) for name in HOSTED if name in names)


HOSTED: dict[str, Callable[[Real, Engine], Case]] = {"triton_backend": Real.backend, "shared_memory": Real.memory}


@contextmanager
def _real(setting: Setting, scratch: Path) -> Iterator[Real]:
    """Adapters stay in LoRA form, here and in the other processes: when a tail is merged would depend on its rows."""
    setting = replace(setting, engine=replace(setting.engine, merged_mib=0))
    setting.tell("loading the backbone", 0)
    backbone = specimens.backbone_of(setting.backbone)
    adapter, _ = pair(backbone)
    made = Writer(backbone, pictures(backbone)).write(scratch / TASK, adapter, TASK)
    adapter = fit(read_package(scratch / TASK), backbone)
    engine = open_engine(backbone, setting.engine)
    try:
        engine.mount(adapter)
        engine.settle(adapter.content_hash)
        yield Real(setting, backbone, made, adapter, engine, scratch)
    finally:
        engine.close()


def _by(hosted: Engine, run: Run, *, shared: bool) -> Run:
    """The same run, its pictures sent in one of the two ways."""

    def sent() -> Finding:
        if isinstance(hosted.choice, Fleet):
            for member in hosted.choice.members:
                member.instance.shares_memory = shared
        return run()

    return sent


def _requests(setting: Setting) -> int:
    return max(setting.requests // SLOWER, IN_FLIGHT)
