"""Pictures that are only cut: what training prepares, to the bit, one by one and many at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from factories import pictures
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.pictures import Pixels
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.jobs import Job, pictures_of
from lensmount_server.engine.plan import plan
from lensmount_server.frames import Ready, Still
from lensmount_server.unscaled import cut_out, needs_scaling
from serving import Kit

# Whole, and longer than they are seen.
SIZES = {
    1.0: [(160, 160), (160, 200), (230, 160)],
    0.95: [(168, 168), (168, 200), (230, 168)],
    0.875: [(182, 182), (182, 230), (300, 182)],
}


def seen(kit: Kit, crop_pct: float) -> Preprocessing:
    return kit.backbone.preprocessing.model_copy(update={"crop_pct": crop_pct})


def shots(sizes: list[tuple[int, int]]) -> list[Pixels]:
    return [shot for seed, size in enumerate(sizes) for shot in pictures(1, seed=seed, size=size)]


@pytest.mark.parametrize("crop_pct", SIZES)
@pytest.mark.parametrize("size", [size for sizes in SIZES.values() for size in sizes])
def test_what_needs_no_scaling_is_what_training_prepares(kit: Kit, size: tuple[int, int], crop_pct: float) -> None:
    (shot,) = shots([size])
    preprocessing = seen(kit, crop_pct)
    assert needs_scaling(*size, preprocessing) == (size not in SIZES[crop_pct])
    assert torch.equal(Still(shot).prepare(preprocessing), preprocessing.prepare(shot))


@pytest.mark.parametrize("crop_pct", SIZES)
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_many_are_cut_as_each_is(kit: Kit, crop_pct: float, count: int) -> None:
    preprocessing = seen(kit, crop_pct)
    own = shots((SIZES[crop_pct] * 3)[:count])
    cut = cut_out(own, preprocessing)
    assert cut.is_contiguous()
    assert torch.equal(cut, torch.stack([preprocessing.prepare(shot) for shot in own]))
    # The order is held against too: no two of them look alike.
    assert count == 1 or not torch.equal(cut, cut.flip(0))


def test_the_pictures_of_a_pass_come_in_its_order_however_each_came(kit: Kit) -> None:
    adapter, preprocessing = kit.defect[0].adapter, kit.backbone.preprocessing
    own = shots([(168, 168), (90, 120), (168, 200), (168, 168), (200, 161)])
    assert [needs_scaling(shot.shape[0], shot.shape[1], preprocessing) for shot in own] == [
        False,
        True,
        False,
        False,
        True,
    ]
    rows = [preprocessing.prepare(shot) for shot in own]
    ways = [
        Job(Still(own[0]), (adapter,)),
        Job(Still(own[1]), (adapter,)),
        Job(Still(own[2]), (adapter,)),
        Job(Ready(preprocessing, rows[3]), (adapter,)),
        Job(Still(np.zeros((168, 168, 3), np.uint8)), (adapter,), {preprocessing: rows[4]}),
    ]
    for places in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0], [3, 4], [1]):
        (work,) = plan([(place, adapter) for place in range(len(places))])
        got = pictures_of(work, [ways[place] for place in places])
        assert torch.equal(got, torch.stack([rows[place] for place in places]))


def test_a_frame_that_a_pass_leaves_out_is_not_in_it(kit: Kit) -> None:
    first, second = (each.adapter for each in kit.defect[:2])
    other: Adapter = kit.surface.adapter
    own = shots(SIZES[0.95])
    jobs = [Job(Still(own[0]), (first,)), Job(Still(own[1]), ()), Job(Still(own[2]), (second, other))]
    (work,) = plan((place, adapter) for place, job in enumerate(jobs) for adapter in job.adapters)
    prepare = kit.backbone.preprocessing.prepare
    assert torch.equal(pictures_of(work, jobs), torch.stack([prepare(own[0]), prepare(own[2])]))
