"""Graphs by bucket: what is padded, replayed and cut equals the trunk run eagerly."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from captures import Recorded, refuse
from factories import random_backbone
from lensmount_server.engine.cuda import graphs
from lensmount_server.engine.cuda.graphs import BUCKETS, USUAL, Captured, CudaCapture, TrunkGraphs, bucket_of
from lensmount_server.scheduling import MAX_BATCH


def trunk(stop: int, x: Tensor) -> Tensor:
    return x * stop + 1


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (32, 32), (33, None)])
def test_a_batch_goes_into_the_smallest_bucket_that_holds_it(rows: int, bucket: int | None) -> None:
    assert bucket_of(rows) == bucket


@pytest.mark.parametrize("rows", [1, 3, 8, 30, 33, 40])
def test_every_batch_gets_its_own_answer(rows: int) -> None:
    runner = TrunkGraphs(trunk, Recorded())
    for _ in range(3):
        x = torch.randn(rows, 3, 2, 2)
        assert torch.equal(runner.run(2, x), trunk(2, x))


def test_a_bucket_is_captured_once_for_each_stop_and_shape() -> None:
    capture = Recorded()
    runner = TrunkGraphs(trunk, capture)
    for rows in (3, 4, 3, 5, 100):
        runner.run(1, torch.randn(rows, 3))
    assert capture.sizes == [4, 8]
    runner.run(2, torch.randn(4, 3))
    runner.run(1, torch.randn(4, 5))
    runner.run(1, torch.randn(4, 3).half())
    assert capture.sizes == [4, 8, 4, 4, 4]


def test_what_was_prepared_is_not_captured_again() -> None:
    capture = Recorded()
    runner = TrunkGraphs(trunk, capture)
    for rows in (4, 3, 100):
        runner.prepare(2, torch.zeros(rows, 3))
    assert capture.sizes == [4]
    for rows in (3, 4):
        x = torch.randn(rows, 3)
        assert torch.equal(runner.run(2, x), trunk(2, x))
    assert capture.sizes == [4]
    runner.run(3, torch.randn(4, 3))
    assert capture.sizes == [4, 4]


def test_without_a_capture_everything_runs_eagerly() -> None:
    runner = TrunkGraphs(trunk, None)
    x = torch.randn(4, 3)
    runner.prepare(2, x)
    assert torch.equal(runner.run(2, x), trunk(2, x))
    assert not runner._graphs


def test_what_the_scheduler_sends_is_usual() -> None:
    """Without a measured table, which a GPU has not."""
    assert set(USUAL) <= set(BUCKETS)
    assert max(USUAL) == bucket_of(MAX_BATCH)


def test_what_can_not_be_captured_runs_eagerly_and_the_log_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    runner = TrunkGraphs(trunk, refuse)
    x = torch.randn(3, 2)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(runner.run(5, x), trunk(5, x))
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith(
        "segments before 5 run eagerly for batches of 4: operation not permitted when stream is capturing"
    )


def test_an_error_of_another_kind_is_not_hidden() -> None:
    def broken(_: Callable[[Tensor], Tensor], __: Tensor) -> Captured:
        raise TypeError("a defect")

    with pytest.raises(TypeError):
        TrunkGraphs(trunk, broken).run(1, torch.randn(1, 2))


def test_more_graphs_than_are_worth_their_memory_run_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 2)
    capture = Recorded()
    runner = TrunkGraphs(trunk, capture)
    for stop in (1, 2, 3, 1, 2):
        x = torch.randn(2, 2)
        assert torch.equal(runner.run(stop, x), trunk(stop, x))
    assert len(capture.sizes) == 2


def test_the_buffer_is_laid_out_as_the_batch_is() -> None:
    capture = Recorded()
    seen: list[bool] = []

    def looked_at(_: int, x: Tensor) -> Tensor:
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return x + 1

    x = torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last)
    TrunkGraphs(looked_at, capture).run(1, x)
    assert all(seen)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
@torch.inference_mode()
def test_a_replayed_graph_equals_the_trunk_run_eagerly(name: str, device: torch.device) -> None:
    backbone = random_backbone(name)
    backbone.model.to(device)

    def eager(stop: int, x: Tensor) -> Tensor:
        for segment in backbone.segments[:stop]:
            x = segment(x)
        return x

    runner = TrunkGraphs(eager, CudaCapture())
    side = backbone.preprocessing.height
    for rows in (*BUCKETS, 3, 7, 1, 32):
        for stop in (1, len(backbone.segments)):
            x = torch.randn(rows, 3, side, side, device=device)
            torch.testing.assert_close(runner.run(stop, x).clone(), eager(stop, x), rtol=1e-3, atol=1e-3)
    assert None not in runner._graphs.values()


@pytest.mark.gpu
@torch.inference_mode()
def test_what_a_graph_can_not_hold_runs_eagerly_on_a_device_too(
    device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    def reads_back(_: int, x: Tensor) -> Tensor:
        return x + float(x.sum().cpu())

    x = torch.randn(2, 3, device=device)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(TrunkGraphs(reads_back, CudaCapture()).run(1, x), reads_back(1, x))
    assert "run eagerly" in caplog.text
