"""Promotions while requests run: every response is what the version that it names gives."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from factories import pictures
from kserving import parameter, shots_of
from serving import CLOSE, Kit, Served

SHOTS = pictures(4, seed=12)
CALLS, CALLERS = 120, 6


@dataclass(frozen=True)
class Row:
    """A picture, its scores, and what the response said of the version."""

    shot: int
    scores: tuple[float, ...]
    version: int
    content_hash: str


def wrong(kit: Kit, rows: list[Row]) -> int:
    """How many rows are not what their version gives for their picture."""
    oracle = {(i, j): kit.defect[i].scores(SHOTS[j]) for i in range(3) for j in range(len(SHOTS))}
    hashes = [version.adapter.content_hash for version in kit.defect]
    return sum(
        row.content_hash != hashes[row.version - 1]
        or not np.allclose(row.scores, oracle[row.version - 1, row.shot], rtol=0, atol=CLOSE)
        for row in rows
    )


async def load(live: Served, client: Any) -> list[Row]:
    rows: list[Row] = []
    draw = random.Random(5)

    async def call() -> None:
        while len(rows) < CALLS:
            shots = draw.choices(range(len(SHOTS)), k=draw.randint(1, 4))
            result = await client.infer("defect", shots_of(*(SHOTS[shot] for shot in shots)))
            version = int(result.get_response().model_version)
            content_hash = parameter(result, "content_hash")
            pairs = zip(shots, result.as_numpy("scores"), strict=True)
            rows.extend(Row(shot, tuple(scores.tolist()), version, content_hash) for shot, scores in pairs)

    async def promote() -> None:
        while len(rows) < CALLS:
            await live.client.set_alias("defect", draw.choice([1, 2, 3]))

    async with asyncio.TaskGroup() as group:
        for each in (*(call() for _ in range(CALLERS)), promote()):
            group.create_task(each)
    return rows


async def test_live_swaps(live: Served, kit: Kit, client: Any) -> None:
    for version in kit.defect[1:]:
        await live.client.register(version.folder)
    rows = await load(live, client)
    assert {row.version for row in rows} == {1, 2, 3}
    assert wrong(kit, rows) == 0
    mistaken = [Row(row.shot, row.scores, row.version % 3 + 1, row.content_hash) for row in rows]
    assert wrong(kit, mistaken) == len(rows)
    hashes = [version.adapter.content_hash for version in kit.defect]
    stale = [Row(row.shot, row.scores, row.version % 3 + 1, hashes[row.version % 3]) for row in rows]
    assert wrong(kit, stale) == pytest.approx(len(rows), abs=0)
