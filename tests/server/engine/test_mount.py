"""Warming an adapter up in today's engine: it must give numbers, and disturbs no batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engines import alone, distance, lora_member
from factories import pictures, random_backbone, stacked
from lensmount.errors import IncompatibleError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.lora import LoraDelta
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.runtime import Engine
from lensmount_server.frames import Still

SHOTS = pictures(4)


def spoilt(adapter: Adapter, value: float) -> Adapter:
    """The same with such a number in all of its LoRA."""

    def fill(tensor: Tensor) -> Tensor:
        return torch.full_like(tensor, value)

    lora = {
        index: {name: LoraDelta(fill(delta.a), fill(delta.b), delta.scale) for name, delta in own.items()}
        for index, own in adapter.lora.items()
    }
    return replace(adapter, lora=lora)


def test_a_good_adapter_is_warmed_up_and_not_counted(tmp_path: Path) -> None:
    backbone = random_backbone()
    member, engine = lora_member(tmp_path, backbone), Engine(backbone)
    engine.mount(member.adapter)
    counters = engine.counters()
    assert (counters.batches, counters.frames, counters.rows) == (0, 0, 0)
    engine.unmount(member.adapter.content_hash)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_an_adapter_that_gives_no_numbers_is_refused(tmp_path: Path, value: float) -> None:
    backbone = random_backbone()
    member = lora_member(tmp_path, backbone)
    with pytest.raises(IncompatibleError, match="NaN or infinity") as caught:
        Engine(backbone).mount(spoilt(member.adapter, value))
    assert caught.value.field == "warm-up"


def test_rows_are_right_while_others_are_warmed_up(tmp_path: Path) -> None:
    backbone = random_backbone()
    members = [lora_member(tmp_path / str(seed), backbone, seed=seed) for seed in range(3)]
    engine, rows = Engine(backbone), stacked(backbone, SHOTS)
    expected = {m.adapter.content_hash: [alone(backbone, m, row) for row in rows] for m in members}
    jobs = [Job(Still(shot), (members[0].adapter, members[1].adapter)) for shot in SHOTS]
    with ThreadPoolExecutor(2) as threads:
        mounting = [threads.submit(engine.mount, members[2].adapter) for _ in range(60)]
        for _ in range(30):
            for frame, answers in enumerate(engine.run(jobs)):
                for adapter, logits in zip(jobs[frame].adapters, answers, strict=True):
                    assert distance(logits, expected[adapter.content_hash][frame]) < 1e-4
        for each in mounting:
            each.result()
