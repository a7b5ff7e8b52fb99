"""Ten thousand live tasks on one machine, few of them in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event

from houses import ask, insert, of, opened, oracle
from lensmount_adapters.package import content_hash
from lensmount_server.frames import Want
from lensmount_server.registry import Registry
from serving import CLOSE, Kit

TASKS = 10_000
REAL = 40


@contextmanager
def queries(registry: Registry) -> Iterator[list[str]]:
    """The statements that reach the database meanwhile."""
    seen: list[str] = []

    def note(*arguments: object) -> None:
        statement = str(arguments[2])
        if "journal" not in statement and not statement.startswith("BEGIN"):  # others look at the journal
            seen.append(statement)

    event.listen(registry._database._engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(registry._database._engine, "before_cursor_execute", note)


def crowd(kit: Kit, data_dir: Path) -> list[str]:
    """Rows of so many live tasks; the first few have packages of their own, whose files are links. Their hashes."""
    Registry(data_dir).close()
    hashes = []
    for number in range(REAL):
        folder = data_dir / "blobs" / f"new-{number}"
        folder.mkdir()
        for path in kit.defect[number % 3].folder.iterdir():
            if path.name != "README.md":
                os.link(path, folder / path.name)
        (folder / "README.md").write_text(f"# {number}\n")
        hashes.append(content_hash(folder))
        folder.rename(data_dir / "blobs" / hashes[-1])
    rows = [(hashes[n] if n < REAL else f"{n:064x}", f"task-{n:05d}") for n in range(TASKS)]
    insert(data_dir, rows, (kit.defect[0].folder / "task.json").read_text())
    return hashes


async def test_ten_thousand_live_tasks_start_and_list_in_a_few_queries(kit: Kit, tmp_path: Path) -> None:
    hashes = crowd(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", of(16)) as house:
        registry, residency = house.catalog.registry, house.catalog.residency
        assert (residency.state().hot, residency.state().loads) == (0, 0)
        with queries(registry) as seen:
            await house.catalog.load_aliases()
        assert len(seen) == 3
        with queries(registry) as seen:
            assert len(registry.page(100)) == 100
        assert len(seen) == 3
        with queries(registry) as seen:
            assert registry.get("task-00007", 1).aliases == ("live",)
        assert len(seen) == 3
        with queries(registry) as seen:
            for number, hash_ in enumerate(hashes):
                answer = await ask(house.catalog, Want(f"task-{number:05d}"))
                assert answer.adapter.content_hash == hash_
                expected = oracle(kit)[kit.defect[number % 3].adapter.content_hash][0]
                assert answer.scores == pytest.approx(expected, abs=CLOSE)
        assert len(seen) == REAL  # where each package lies
        state = residency.state()
        assert (state.hot, state.loads, state.evictions) == (16, REAL, REAL - 16)
        assert (await ask(house.catalog, Want("task-00000"))).adapter.content_hash == hashes[0]
