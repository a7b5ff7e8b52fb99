"""Graphs of the trunk are there before the first batch wants them, and no pass is captured by mistake."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from captures import Recorded, refuse
from engines import FRAMES, Zoo, distance, lora_member, make_zoo, serve
from factories import random_backbone
from lensmount_adapters.adapter import Adapter
from lensmount_server.engine.cuda import executor as module
from lensmount_server.engine.cuda.executor import CudaExecutor
from lensmount_server.engine.cuda.graphs import BUCKETS, USUAL, Capture, Captured, CudaCapture

TOLERANCE = 1e-4
FAR = 1e-2
PATIENCE_S = 60


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, device: torch.device) -> Zoo:
    made = make_zoo(tmp_path_factory.mktemp("zoo"), random_backbone("test_vit"))
    made.backbone.model.to(device)
    return replace(made, members=tuple(replace(m, adapter=m.adapter.to(device)) for m in made.members))


def forks(zoo: Zoo) -> set[int]:
    return {member.adapter.fork for member in zoo.members} - {0}


def worst(zoo: Zoo, engine: CudaExecutor, members: tuple[int, ...], frames: int = FRAMES) -> float:
    wanted = [(frame, zoo.members[i].adapter) for frame in range(frames) for i in members]
    answers = serve(engine, wanted, zoo.rows)
    return max(distance(row.float().cpu(), zoo.expected[key]) for key, row in answers.items())


def late_captures(zoo: Zoo, engine: CudaExecutor, capture: Recorded) -> int:
    """How many captures fall on batches of every member alone, one frame and several."""
    before = len(capture.sizes)
    for number in range(len(zoo.members)):
        for frames in (1, 3, FRAMES):
            assert worst(zoo, engine, (number,), frames) < TOLERANCE
    return len(capture.sizes) - before


def test_what_is_mounted_has_its_graphs_before_its_first_batch(zoo: Zoo) -> None:
    capture = Recorded()
    engine = CudaExecutor(zoo.backbone, capture=capture)
    for member in zoo.members:
        engine.mount(member.adapter)
    assert sorted(capture.sizes) == sorted(USUAL * len(forks(zoo)))
    assert late_captures(zoo, engine, capture) == 0


def test_what_is_not_mounted_is_captured_by_its_first_batches(zoo: Zoo) -> None:
    capture = Recorded()
    engine = CudaExecutor(zoo.backbone, capture=capture)
    assert late_captures(zoo, engine, capture) == 3 * len(forks(zoo))


def test_a_fork_that_is_known_costs_the_next_adapter_nothing(zoo: Zoo) -> None:
    capture = Recorded()
    engine = CudaExecutor(zoo.backbone, capture=capture)
    first, second = (member.adapter for member in zoo.members[:2])
    assert first.fork == second.fork
    engine.mount(first)
    assert capture.sizes == list(USUAL)
    engine.mount(second)
    assert capture.sizes == list(USUAL)


def test_an_adapter_that_shares_no_segment_needs_no_graph(tmp_path: Path, zoo: Zoo, device: torch.device) -> None:
    capture = Recorded()
    member = lora_member(tmp_path, random_backbone("test_vit"), segments=(0,))
    CudaExecutor(zoo.backbone, capture=capture).mount(member.adapter.to(device))
    assert not capture.sizes


def test_another_size_of_pictures_has_graphs_of_its_own(zoo: Zoo) -> None:
    backbone = random_backbone("test_resnet")
    backbone.model.to(zoo.backbone.device)
    capture = Recorded()
    engine = CudaExecutor(backbone, capture=capture)
    small = backbone.preprocessing.model_copy(update={"height": 64, "width": 64})
    for preprocessing in (backbone.preprocessing, small, small):
        engine.cut(2, preprocessing)
    assert capture.sizes == [*USUAL, *USUAL]


def test_its_batch_sizes_are_those_of_its_graphs(zoo: Zoo) -> None:
    assert tuple(CudaExecutor(zoo.backbone, capture=Recorded()).batch_sizes) == BUCKETS


def test_a_mixed_batch_is_right_by_replay_and_a_stale_replay_would_be_caught(zoo: Zoo) -> None:
    def stale(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Captured:
        return replace(Recorded()(function, inputs), replay=lambda: None)

    def far(capture: Capture) -> float:
        engine = CudaExecutor(zoo.backbone, capture=capture)
        engine.mount(zoo.members[0].adapter)
        return worst(zoo, engine, (0, 8))

    assert far(Recorded()) < TOLERANCE
    assert far(stale) > FAR


def test_what_can_not_be_captured_is_mounted_all_the_same(zoo: Zoo, caplog: pytest.LogCaptureFixture) -> None:
    engine = CudaExecutor(zoo.backbone, capture=refuse)
    with caplog.at_level(logging.WARNING):
        engine.mount(zoo.members[0].adapter)
        assert worst(zoo, engine, (0,)) < TOLERANCE
    assert [record.getMessage().split(":")[0][-1] for record in caplog.records] == list(map(str, USUAL))


class Halfway:
    """Holds a pass while the forwards of modules are replaced, and tells what was captured meanwhile."""

    def __init__(self, engine: CudaExecutor, zoo: Zoo) -> None:
        self.captured = threading.Event()
        self.reached, self._go_on = threading.Event(), threading.Event()
        self._engine, self._zoo = engine, zoo

    def hold(self) -> None:
        """Wait here; called by the pass."""
        self.reached.set()
        assert self._go_on.wait(PATIENCE_S)

    def captures_meanwhile(self, adapter: Adapter) -> bool:
        """Whether mounting an adapter captures anything before the pass goes on."""
        with ThreadPoolExecutor(2) as threads:
            running = threads.submit(worst, self._zoo, self._engine, (0,))
            assert self.reached.wait(PATIENCE_S)
            self.captured.clear()  # the pass has its own graph by now
            mounting = threads.submit(self._engine.mount, adapter)
            meanwhile = self.captured.wait(2)
            self._go_on.set()
            running.result(PATIENCE_S)
            mounting.result(PATIENCE_S)
        assert self.captured.is_set()
        return meanwhile


@contextmanager
def halfway(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> Iterator[Halfway]:
    """An engine whose next pass with an edited linear layer is held there."""

    def noted(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Captured:
        pause.captured.set()
        return recorded(function, inputs)

    def held(x: Tensor, weight: Tensor, bias: Tensor, **_: object) -> Tensor:
        pause.hold()
        return F.linear(x, weight, bias)

    recorded = Recorded()
    engine = CudaExecutor(zoo.backbone, capture=noted)
    pause = Halfway(engine, zoo)
    with monkeypatch.context() as patch:
        patch.setattr(module, "edited_linear", held)
        yield pause


def test_nothing_is_captured_while_a_pass_runs(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    with halfway(zoo, monkeypatch) as pause:
        assert not pause.captures_meanwhile(zoo.members[8].adapter)


def test_a_capture_in_the_middle_of_a_pass_would_be_caught(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    with halfway(zoo, monkeypatch) as pause:
        monkeypatch.setattr(pause._engine._turns, "in_between", nullcontext)
        assert pause.captures_meanwhile(zoo.members[8].adapter)


@pytest.mark.gpu
def test_a_device_captures_beside_an_engine_that_answers(zoo: Zoo) -> None:
    engine = CudaExecutor(zoo.backbone, capture=CudaCapture())
    with ThreadPoolExecutor(2) as threads:
        mounting = [threads.submit(engine.mount, member.adapter) for member in zoo.members]
        while not all(each.done() for each in mounting):
            assert worst(zoo, engine, (0, 1, 8)) < FAR
        for each in mounting:
            each.result()
    assert None not in engine._trunk._graphs.values()
    assert worst(zoo, engine, tuple(range(len(zoo.members)))) < FAR


@pytest.mark.gpu
def test_a_pass_that_is_known_waits_for_nothing_on_a_device(zoo: Zoo) -> None:
    """What waited for one pass would keep the pictures of the next from being copied meanwhile."""
    engine = CudaExecutor(zoo.backbone, capture=CudaCapture())
    wanted = [(frame, zoo.members[i].adapter) for frame in range(3) for i in (0, 1, 8)]
    serve(engine, wanted, zoo.rows)
    torch.cuda.set_sync_debug_mode("error")
    try:
        answers = serve(engine, wanted, zoo.rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    logits = engine.fetch(list(answers.values()))
    assert max(distance(row, zoo.expected[key]) for key, row in zip(answers, logits, strict=True)) < TOLERANCE
