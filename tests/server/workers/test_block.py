from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lensmount_server.video.account import Account, AccountState, Drops
from lensmount_server.workers.block import BLOCK_BYTES, BLOCKS, NAMES, Block, Counters, Tally, create_memory


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = create_memory()
    yield descriptor
    os.close(descriptor)


def test_both_sides_see_one_memory(memory: int) -> None:
    with Block(memory, 3) as writer, Block(memory, 3) as reader, Block(memory, 4) as other:
        end = writer.write(5000, b"picture")
        assert end == 5007
        assert reader.read(5000, 7) == b"picture"
        assert other.read(5000, 7) == bytes(7)


def test_what_nobody_wrote_costs_nothing(memory: int) -> None:
    assert os.fstat(memory).st_size == BLOCKS * BLOCK_BYTES
    assert os.fstat(memory).st_blocks == 0
    with Block(memory, 0) as block:
        block.write(1 << 20, bytes(1 << 20))
        assert os.fstat(memory).st_blocks * 512 >= 1 << 20
        block.forget()
        assert block.read(1 << 20, 4) == bytes(4)
    assert os.fstat(memory).st_blocks * 512 < 1 << 20


def test_nobody_can_make_it_shorter_under_a_reader(memory: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(memory, mmap.PAGESIZE)


def test_an_account_is_told_by_its_counters(memory: int) -> None:
    with Block(memory, 0) as block:
        account = Account(Tally(block).account)
        account.add(decoded=7, dropped=Drops(superseded=2, rate=1, decode=2))
        assert block.counters().account == account.state()
        assert block.counters().account.in_flight == 4


class Torn(Block):
    """Reads the counters without looking whether they are being written."""

    def counters(self) -> Counters:
        return Counters(*memoryview(self._map)[8 : 8 + 8 * len(NAMES)].cast("q"))


WRITER = """
import sys
from lensmount_server.workers.block import NAMES, Block
block, number = Block(int(sys.argv[1]), 0), 0
print("writes", flush=True)
while True:
    number += 1
    block.put([number] * len(NAMES))
"""


def torn_readings(memory: int, kind: type[Block], readings: int = 100_000) -> int:
    """How many readings mix two states, while another process writes states in which all words are the same."""
    command = [sys.executable, "-c", WRITER, str(memory)]
    with (
        kind(memory, 0) as reader,
        subprocess.Popen(command, pass_fds=[memory], stdout=subprocess.PIPE) as writer,
    ):
        assert writer.stdout is not None
        writer.stdout.readline()
        states = [reader.counters() for _ in range(readings)]
        writer.kill()
    assert states[-1].decoded > 0
    return sum(len(set(vars(state).values())) > 1 for state in states)


@pytest.mark.parametrize("kind", [Block, Torn])
def test_counters_are_of_one_moment(memory: int, kind: type[Block]) -> None:
    assert (torn_readings(memory, kind) > 0) == (kind is Torn)


def test_counters_of_a_writer_that_died_in_the_middle_are_those_before(memory: int) -> None:
    with Block(memory, 0) as block:
        block.put(range(len(NAMES)))
        with pytest.raises(TypeError):
            block.put([1, 2, "dies"])  # type: ignore[list-item]
        assert block.counters() == Counters(*range(len(NAMES)))


def test_accounts_add_up() -> None:
    one = AccountState(4, 1, Drops(rate=1))
    assert one + one == AccountState(8, 2, Drops(rate=2))
