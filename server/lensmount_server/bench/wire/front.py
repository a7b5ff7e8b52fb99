"""The KServe front beside Triton's own: one task that computes next to nothing, one picture a request."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from lensmount.client import Client
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.pictures import Pixels
from lensmount_adapters.timing import turns
from lensmount_server.bench import specimens
from lensmount_server.bench.packages import Writer
from lensmount_server.bench.served import server
from lensmount_server.bench.wire import rival, tritonserver, trivial
from lensmount_server.bench.wire.analyzer import Analyzer, analysed, find
from lensmount_server.bench.wire.answering import answering
from lensmount_server.bench.wire.case import AGAINST_TRITON, Analysed, Case, case_of, rate
from lensmount_server.bench.wire.load import INPUT, Finding, Order
from lensmount_server.bench.wire.loading import Loading, loading
from lensmount_server.bench.wire.turns import ANSWERING, OTHER, OURS, Setting, in_turns

TASK, PICTURES, TRIES = "wire", 4, 3
# Rounds of perf_analyzer: each takes some seconds a side.
ANALYSED = 3
# A picture's colours change every so many pixels.
CELLS = 32
# One at a time takes several times as long as sixteen.
SEQUENTIAL = 4


@dataclass(frozen=True)
class Fronts:
    """Both servers, ready, Triton with a model for each of the forms; one that only answers; and `perf_analyzer`."""

    loading: Loading
    ours: str
    triton: str
    answering: str
    analyzer: Analyzer | None
    setting: Setting

    def measure(self, name: str) -> Case:
        """One case beside Triton's fastest form for it."""
        tried = {form: self._tried(name, form) for form in rival.FORMS}
        best = max(tried, key=lambda form: tried[form])
        sides = {
            OURS: partial(self._run, name, self.ours, TASK),
            OTHER: partial(self._run, name, self.triton, best.model),
            ANSWERING: partial(self._run, name, self.answering, TASK),
        }
        found = in_turns(sides, self.setting.rounds, partial(self.setting.tell, name))
        told = {str(form): round(each, 1) for form, each in tried.items()}
        case = case_of(name, f"Triton, {best}", found[OURS], found[OTHER], told, found[ANSWERING])
        return replace(case, analysed=self._analysed(self.analyzer, name, best) if self.analyzer else None)

    def _tried(self, name: str, form: rival.Form) -> float:
        """Requests a second of one of Triton's forms, after a run that does not count."""
        self.setting.tell(f"{name}, Triton with {form}", 0)
        return median(rate(self._run(name, self.triton, form.model)) for _ in range(TRIES + 1))

    def _analysed(self, analyzer: Analyzer, name: str, best: rival.Form) -> Analysed:
        """The same by `perf_analyzer`, which names the input with the model."""
        self.setting.tell(f"{name}, perf_analyzer", 0)
        orders = {
            OURS: order_of(name, self.ours, f"{TASK}/{INPUT}", self.setting.requests),
            OTHER: order_of(name, self.triton, best.model, self.setting.requests),
        }
        sides = {side: partial(analyzer.run, order, trivial.SIZE) for side, order in orders.items()}
        rounds = [*turns(sides, min(self.setting.rounds, ANALYSED))]
        return analysed([each[OURS] for each in rounds], [each[OTHER] for each in rounds])

    def _run(self, name: str, url: str, model: str) -> Finding:
        return self.loading.run(order_of(name, url, model, self.setting.requests))


def cases(setting: Setting, names: Collection[str], triton: tritonserver.Installed, scratch: Path) -> Iterator[Case]:
    """Those of the cases beside Triton's front that are in `names`."""
    chosen = [name for name in AGAINST_TRITON if name in names]
    if not chosen:
        return
    with _fronts(setting, triton, scratch) as fronts:
        for name in chosen:
            yield fronts.measure(name)


@contextmanager
def _fronts(setting: Setting, triton: tritonserver.Installed, scratch: Path) -> Iterator[Fronts]:
    """Both servers with the same weights, and what sends to them."""
    setting.tell("starting both servers", 0)
    backbone = specimens.backbone_of(trivial.NAME)
    settings = replace(setting.engine, precision="fp32", threads=1)
    with ExitStack() as stack:
        args = backbone, settings, scratch, "lensmount_server.bench.wire.trivial"
        ours = stack.enter_context(server(*args)).address
        repository = scratch / "rival"
        rival.write(repository, scratch / f"{backbone.name}.safetensors", settings, rival.FORMS)
        models = [form.model for form in rival.FORMS]
        url = stack.enter_context(tritonserver.running(triton, repository, models, scratch))
        load = stack.enter_context(_loading(backbone, ours, scratch))
        bare = stack.enter_context(answering(load.held, scratch / "answering.log"))
        yield Fronts(load, ours, url, bare, find(triton.home), setting)


@contextmanager
def _loading(backbone: Backbone, address: str, scratch: Path) -> Iterator[Loading]:
    """A load generator, and its task live at `address`."""
    shown = pictures(backbone)
    made = Writer(backbone, shown).write(scratch / TASK, specimens.head_adapter(backbone, rival.SEED), TASK)
    with Client(address) as client:
        client.register(made.archive, alias="live")
    with loading(shown, made.expected.softmax(-1), scratch) as started:
        yield started


def pictures(backbone: Backbone) -> list[Pixels]:
    """Coarse patterns of the backbone's size, so unlike each other that no answer can be taken for another's."""
    seen, random = backbone.preprocessing, np.random.default_rng(5)
    rows, columns = -(-seen.height // CELLS), -(-seen.width // CELLS)
    coarse = random.integers(0, 256, (PICTURES, rows, columns, 3), np.uint8)
    fine = coarse.repeat(CELLS, 1).repeat(CELLS, 2)[:, : seen.height, : seen.width]
    return [np.ascontiguousarray(picture) for picture in fine]


def order_of(name: str, url: str, model: str, requests: int) -> Order:
    """What a case's name says: `stream_16` is sixteen in flight on one stream."""
    way, in_flight = name.split("_")
    count = requests if int(in_flight) > 1 else max(requests // SEQUENTIAL, 2)
    return Order(url, model, way == "stream", int(in_flight), count)
