"""Probes are the backbone's own borders."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch

from factories import random_backbone
from lensmount_server.engine import probes
from lensmount_server.engine.cuda.forwards import standing_in
from lensmount_server.engine.probes import PROBE_ROWS, Probes, as_is, relative_error
from lensmount_server.engine.ranges import SegmentRange, whole


@torch.inference_mode()
def test_what_goes_in_and_comes_out_of_a_range_belongs_together() -> None:
    backbone = random_backbone("test_vit")
    known = Probes(backbone)
    count = len(backbone.segments)
    pictures = known.at(SegmentRange(0, 1, backbone.preprocessing))
    assert (pictures.dtype, len(pictures)) == (torch.uint8, PROBE_ROWS)
    whole = backbone.forward_features(backbone.preprocessing.normalize(pictures))
    for start in range(count):
        range_ = SegmentRange(start, count, backbone.preprocessing)
        assert torch.equal(known.behind(range_), whole)
        if start:
            assert torch.equal(backbone.forward_features(known.at(range_), start), whole)
    assert not torch.equal(known.behind(SegmentRange(0, count - 2, backbone.preprocessing)), whole)


def test_they_can_be_traced_even_when_first_asked_for_in_inference_mode() -> None:
    backbone = random_backbone("test_resnet")
    with torch.inference_mode():
        probe = Probes(backbone).behind(SegmentRange(0, 2, backbone.preprocessing))
    assert not probe.is_inference()
    assert not probe.requires_grad
    with torch.inference_mode(), as_is():
        assert not torch.ones(1).is_inference()


def test_edits_that_a_pass_makes_meanwhile_do_not_show() -> None:
    backbone = random_backbone("test_vit")
    range_, expected = whole(backbone), Probes(backbone).behind(whole(backbone))
    known = Probes(backbone)
    with standing_in(backbone.model, {"blocks.5.attn.proj": torch.neg}):
        edited = probes._run(backbone, backbone.preprocessing)[-1]
        assert torch.equal(known.behind(range_), expected)
    assert not torch.allclose(edited, expected)


def test_many_threads_compute_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = random_backbone("test_resnet")
    run = probes._run
    runs = []

    def counted(*arguments: Any) -> Any:
        runs.append(arguments)
        return run(*arguments)

    monkeypatch.setattr(probes, "_run", counted)
    known, seen = Probes(backbone), []
    whole = SegmentRange(0, len(backbone.segments), backbone.preprocessing)
    threads = [threading.Thread(target=lambda: seen.append(known.behind(whole))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1
    assert len({id(tensor) for tensor in seen}) == 1


def test_a_relative_error_is_on_the_scale_of_what_is_wanted() -> None:
    wanted = torch.tensor([3.0, -4.0])
    assert relative_error(wanted, wanted) == 0
    assert relative_error(1.1 * wanted, wanted) == pytest.approx(0.1, rel=1e-5)
    assert not relative_error(torch.tensor([float("nan"), 0]), wanted) <= 1e9


def test_the_pooled_error_is_that_of_what_heads_see() -> None:
    backbone = random_backbone("test_resnet")
    known = Probes(backbone)
    own = known.behind(whole(backbone))
    assert known.pooled_error(own) == 0
    assert known.pooled_error(own * 1.5) == pytest.approx(0.5)
    assert math.isnan(known.pooled_error(own * float("nan")))
