"""Several servers on one registry, in threads and in processes: whoever was first is first for all."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from children import with_tests
from ledger import check_whole
from lensmount.errors import ConflictError, IncompatibleError, NotFoundError
from lensmount_server.registry import Expected, Kind, Places, Registry
from registries import Shelf, add, add_all, numbers, opened, points

PATIENCE_S = 120.0


def together(*work: Callable[[], Any]) -> list[Any]:
    """Do all of it at the same time; results or errors of ours, in order."""
    barrier = threading.Barrier(len(work))

    def one(each: Callable[[], Any]) -> Any:
        barrier.wait(PATIENCE_S)
        try:
            return each()
        except (ConflictError, NotFoundError, IncompatibleError) as error:
            return error

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(one, work))


@pytest.fixture
def servers(tmp_path: Path, places: Places) -> Iterator[list[Registry]]:
    with ExitStack() as stack:
        yield [stack.enter_context(opened(tmp_path / f"server-{number}", places)) for number in range(3)]


def test_of_promoters_with_the_same_etag_one_wins(servers: list[Registry], shelf: Shelf, places: Places) -> None:
    add_all(servers[0], shelf, 4)
    change = servers[0].set_alias("defect", "live", 4)
    for _ in range(15):
        expected = Expected(etag=change.etag)
        # Each to another version, none of them the one that it points at.
        others = [version for version in (1, 2, 3, 4) if version != change.version.version]
        work = [
            partial(server.set_alias, "defect", "live", version, expected)
            for server, version in zip(servers, others, strict=True)
        ]
        came = together(*work)
        won = [each for each in came if not isinstance(each, ConflictError)]
        assert len(won) == 1
        change = won[0]
        for server in servers:
            assert server.resolve("defect", "live").id == change.version
    check_whole(servers[0], places)


def test_of_rollbacks_that_looked_at_the_same_time_one_wins(servers: list[Registry], shelf: Shelf) -> None:
    add_all(servers[0], shelf, 8)
    for version in range(1, 9):
        servers[0].set_alias("defect", "live", version)
    for version in range(7, 2, -1):
        looked = [server.rollback_target("defect", "live") for server in servers]
        work = [
            partial(server.roll_back, look[0], "live", look[1]) for server, look in zip(servers, looked, strict=True)
        ]
        assert sum(isinstance(each, ConflictError) for each in together(*work)) == 2
        assert points(servers[0]) == {("defect", "live"): version}


def test_the_same_content_registered_at_once_is_one_version(
    servers: list[Registry], shelf: Shelf, places: Places
) -> None:
    for round_ in range(8):
        shelf.package(f"same-{round_}")
        came = together(*(partial(add, server, shelf, f"same-{round_}") for server in servers))
        assert {record.id.version for record, _ in came} == {round_ + 1}
        assert sorted(is_new for _, is_new in came) == [False, False, True]
    check_whole(servers[0], places)
    kinds = [entry.kind for entry in servers[0].since(0, 100)]
    assert (kinds.count(Kind.REGISTERED), kinds.count(Kind.REGISTERED_AGAIN)) == (8, 16)


def test_other_content_registered_at_once_has_numbers_without_gaps(
    servers: list[Registry], shelf: Shelf, places: Places
) -> None:
    for card in range(12):
        shelf.package(str(card))

    def work(place: int) -> list[int]:
        return [add(servers[place], shelf, str(card))[0].id.version for card in range(place, 12, 3)]

    came = together(*(partial(work, place) for place in range(3)))
    assert sorted(number for each in came for number in each) == list(range(1, 13))
    assert all(each == sorted(each) for each in came)
    check_whole(servers[0], places)


def test_what_one_deletes_the_other_promotes_or_not(servers: list[Registry], shelf: Shelf, places: Places) -> None:
    one, two, three = servers
    deleted = 0
    for round_ in range(12):
        version = add(one, shelf, f"round-{round_}")[0].id.version
        promoted, gone, again = together(
            partial(one.set_alias, "defect", "live", version),
            partial(two.delete, "defect", version),
            partial(add, three, shelf, f"round-{round_}"),
        )
        assert isinstance(promoted, NotFoundError) != isinstance(gone, IncompatibleError)
        record, is_new = again
        assert is_new or record.id.version == version
        deleted += not isinstance(gone, IncompatibleError)
        check_whole(three, places)
    print(f"{deleted} of 12 deleted")


def test_collecting_takes_nothing_that_the_other_begins_to_need(
    servers: list[Registry], shelf: Shelf, places: Places
) -> None:
    one, two, three = servers
    for round_ in range(8):
        needed = add(one, shelf, f"round-{round_}")[0].id.version
        add(one, shelf, f"next-{round_}")
        promoted, used, collected = together(
            partial(one.set_alias, "defect", f"alias-{round_}", needed),
            partial(two.use, [("defect", needed)]),
            partial(three.collect, 1),
        )
        gone = ("defect", needed) in {(each.task, each.version) for each in collected.removed}
        if gone:
            assert isinstance(promoted, NotFoundError)
            assert isinstance(used, NotFoundError)
        else:
            assert ("defect", needed) in numbers(one)
    check_whole(one, places)


PROGRAM = """
import json, sys
from pathlib import Path
from lensmount.errors import ConflictError
from lensmount_server.registry import Expected, Places, Registry
from registries import Shelf, add

directory, database, blobs, shelf, own = sys.argv[1:]
registry = Registry(Path(directory), Places(database, blobs))
print("ready", flush=True)
sys.stdin.readline()
won = []
for turn in range(40):
    record = registry.resolve("defect", "live")
    etag = next(state.etag for state in record.states if state.alias == "live")
    try:
        change = registry.set_alias("defect", "live", record.id.version % 3 + 1, Expected(etag=etag))
        won.append((int(etag), change.seq))
    except ConflictError:
        pass
    if turn % 8 == 0:
        add(registry, Shelf(Path(shelf)), own + str(turn))
        add(registry, Shelf(Path(shelf)), "shared" + str(turn))
registry.close()
print(json.dumps(won))
"""


def test_processes_agree_who_was_first(tmp_path: Path, places: Places, shelf: Shelf) -> None:
    with opened(tmp_path / "data", places) as registry:
        add_all(registry, shelf, 3)
        first = registry.set_alias("defect", "live", 1)
        for turn in range(0, 40, 8):
            for card in ("shared", "a", "b"):
                shelf.package(f"{card}{turn}")
        won = [each for result in _run_both(tmp_path, places, shelf) for each in result]
        assert len({etag for etag, _ in won}) == len(won)
        assert len(won) >= 40  # each turn, at least one of the two has its way
        assert {etag for etag, _ in won} == {first.seq, *(seq for _, seq in won)} - {max(seq for _, seq in won)}
        told = check_whole(registry, places)
        assert set(told.versions) == {("defect", version) for version in range(1, 19)}


def _run_both(folder: Path, places: Places, shelf: Shelf) -> list[Sequence[tuple[int, int]]]:
    running = []
    for own in ("a", "b"):
        arguments = [str(folder / own), places.database, places.blobs, str(shelf.folder)]
        command = [sys.executable, "-c", PROGRAM, *arguments, own]
        running.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=with_tests())
        )
    try:
        for each in running:
            assert each.stdout
            assert each.stdout.readline() == "ready\n"
        for each in running:
            assert each.stdin
            each.stdin.write("go\n")
            each.stdin.flush()
        said = [each.communicate(timeout=PATIENCE_S)[0] for each in running]
    finally:
        for each in running:
            each.kill()
            each.wait()
    assert [each.returncode for each in running] == [0, 0]
    return [json.loads(each) for each in said]
