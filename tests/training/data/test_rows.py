"""Rows that are there are whole, whoever was killed, whatever lies beside them, and however full the disk is."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from children import with_tests
from lensmount.errors import InvalidInputError
from lensmount_training.data import rows
from lensmount_training.data.rows import KEYS, PARTIAL, ROWS, RowStore, prune

KILLING = Path(__file__).parents[2] / "killing.py"


def add(folder: Path, keys: list[str], first: int = 0) -> RowStore:
    """Rows of (2, 3) full of `first`, first + 1, …"""
    store = RowStore(folder)
    with store.added(keys, (2, 3), np.uint8) as room:
        for place in range(len(keys)):
            room[place] = first + place
    return store


def values(store: RowStore, keys: list[str]) -> list[int]:
    got = store.rows(keys)[:]
    assert got.shape == (len(keys), 2, 3)
    assert (got == got[:, :1, :1]).all()
    return [int(row[0, 0]) for row in got]


def shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def test_rows_are_found_by_key_in_any_order(tmp_path: Path) -> None:
    add(tmp_path, ["a", "b", "c"])
    store = add(tmp_path, ["d", "e"], 10)
    for each in (store, RowStore(tmp_path)):
        assert values(each, ["e", "a", "d", "a"]) == [11, 0, 10, 0]
        assert each.missing(["x", "a", "y", "x", "e"]) == ["x", "y"]


@given(st.lists(st.lists(st.integers(0, 9), max_size=4, unique=True), max_size=5), st.data())
@settings(max_examples=60, deadline=None)
def test_a_selection_is_that_of_a_tensor(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[int]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    for group in filter(None, groups):
        store = RowStore(folder)
        with store.added([str(key) for key in group], (2,), np.int64) as room:
            room[:] = np.array(group)[:, None]
    known = sorted({key for group in groups for key in group})
    if not known:
        return
    keys = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=12))
    mapped = RowStore(folder).rows([str(key) for key in keys])
    wanted = torch.tensor(keys)[:, None].expand(-1, 2)
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(keys) - 1), max_size=8)), dtype=torch.int64)
    assert len(mapped) == len(keys)
    assert torch.equal(mapped[index], wanted[index])
    cut = data.draw(st.slices(len(keys)).filter(lambda each: each.step is None or each.step > 0))
    assert torch.equal(mapped[cut], wanted[cut])


def test_what_is_taken_out_is_a_copy(tmp_path: Path) -> None:
    store = add(tmp_path, ["a"])
    store.rows(["a"])[:].fill_(9)
    assert values(store, ["a"]) == [0]
    assert values(RowStore(tmp_path), ["a"]) == [0]


def test_the_mapped_rows_can_not_be_written_to(tmp_path: Path) -> None:
    mapped = add(tmp_path, ["a"]).rows(["a"])
    with pytest.raises(ValueError, match="read-only"):
        mapped.shards[0][0] = 1


def test_a_context_that_ends_badly_leaves_nothing(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    with pytest.raises(ZeroDivisionError), store.added(["a"], (2, 3), np.uint8):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    assert store.missing(["a"]) == ["a"]


def test_a_process_killed_before_any_step_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    keys = ["a", "b", "c"]
    command = [sys.executable, str(KILLING), str(tmp_path), ",".join(keys)]
    done = subprocess.run(command, env=with_tests(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ends = [int(line) for line in done.stdout.split()]
    assert ends == [-signal.SIGKILL] * len(ends)
    assert len(ends) > 25  # the lines from the first folder to the shard that is opened
    found = [_whole_or_nothing(tmp_path / str(at), keys) for at in range(len(ends) + 1)]
    assert found[0]
    assert True in found[1:], "killed after the rename, the rows are there"
    assert found[1:] == sorted(found[1:]), "and before it never"
    for at in range(1, len(ends) + 1):
        prune(tmp_path / str(at), keep=1 << 20)
        assert _whole_or_nothing(tmp_path / str(at), keys) == found[at]


def _whole_or_nothing(folder: Path, keys: list[str]) -> bool:
    """Whether all rows are there, and right; none may be there otherwise. The store works on."""
    store = RowStore(folder)
    there = not store.missing(keys)
    if there:
        assert [int(row[0, 0]) for row in store.rows(keys)[:]] == [1, 2, 3]
    else:
        assert store.missing(keys) == keys
        before = RowStore(folder)
        with before.added(["other"], (3, 4), np.uint8) as room:
            room[:] = 7
        assert before.rows(["other"])[:].eq(7).all()
    return there


def test_what_a_killed_process_left_goes_after_a_day(tmp_path: Path) -> None:
    add(tmp_path, ["a"])
    left = tmp_path / f"{PARTIAL}abc"
    left.mkdir()
    (left / ROWS).write_bytes(b"x" * 1000)
    assert prune(tmp_path) == 0
    assert left.is_dir(), "somebody may be writing it"
    yesterday = time.time() - rows.ABANDONED - 1
    os.utime(left / ROWS, (yesterday, yesterday))
    assert prune(tmp_path) == 1000
    assert not left.exists()
    assert values(RowStore(tmp_path), ["a"]) == [0]


def test_two_processes_that_make_the_same_rows_disturb_nobody(tmp_path: Path) -> None:
    script = """
import sys, numpy as np
from pathlib import Path
from lensmount_training.data.rows import RowStore
for turn in range(20):
    store = RowStore(Path(sys.argv[1]))
    keys = [f"{turn}-{place}" for place in range(5)]
    missing = store.missing(keys) or keys
    with store.added(missing, (2, 3), np.uint8) as room:
        for place, key in enumerate(missing):
            room[place] = int(key.split("-")[1])
    assert store.rows(keys)[:][:, 0, 0].tolist() == [0, 1, 2, 3, 4]
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    both = [subprocess.Popen(command, env=with_tests(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for each in both:
        _, complaints = each.communicate(timeout=120)
        assert each.returncode == 0, complaints
    store = RowStore(tmp_path)
    for turn in range(20):
        assert values(store, [f"{turn}-{place}" for place in range(5)]) == [0, 1, 2, 3, 4]
    assert not list(tmp_path.glob(f"{PARTIAL}*"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """The files of a shard of three rows."""
    folder = tmp_path_factory.mktemp("good")
    add(folder, ["a", "b", "c"], 5)
    (shard,) = shards(folder)
    return (shard / ROWS).read_bytes(), (shard / KEYS).read_bytes()


def damaged(folder: Path, data: bytes, keys: bytes) -> RowStore:
    shard = folder / "0-damaged"
    shard.mkdir(parents=True, exist_ok=True)
    (shard / ROWS).write_bytes(data)
    (shard / KEYS).write_bytes(keys)
    return RowStore(folder)


def test_the_whole_shard_is_read(tmp_path: Path, good: tuple[bytes, bytes]) -> None:
    assert values(damaged(tmp_path, *good), ["a", "b", "c"]) == [5, 6, 7]


def test_a_shard_cut_anywhere_is_as_if_it_were_not_there(tmp_path: Path, good: tuple[bytes, bytes]) -> None:
    for length in range(len(good[0])):
        assert damaged(tmp_path, good[0][:length], good[1]).missing(["a", "b", "c"]) == ["a", "b", "c"]
    for length in range(len(b"a\nb\n")):
        assert damaged(tmp_path, good[0], good[1][:length]).missing(["a", "b", "c"]) == ["a", "b", "c"]


HEADER_BYTES = st.one_of(st.integers(0, 255), st.sampled_from(list(b"()'{}[],:0123456789<>|uifOV ")))


@given(st.lists(st.tuples(st.integers(0, 127), HEADER_BYTES), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_no_header_of_a_shard_stops_a_run(
    tmp_path_factory: pytest.TempPathFactory, good: tuple[bytes, bytes], changes: list[tuple[int, int]]
) -> None:
    data = bytearray(good[0])
    for place, value in changes:
        data[place] = value
    folder = tmp_path_factory.mktemp("damaged")
    add(folder, ["d"])
    assert values(damaged(folder, bytes(data), good[1]), ["d"]) == [0]


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04" + bytes(100), b"\x80\x04K*.", b"\x93NUMPY\x01\x00\x10\x00{'descr': ([(((", bytes(500)]
)
def test_garbage_is_left_alone(tmp_path: Path, data: bytes) -> None:
    add(tmp_path, ["d"])
    assert values(damaged(tmp_path, data, b"a\nb\nc\n"), ["d"]) == [0]


def test_pickles_are_never_read(tmp_path: Path) -> None:
    shard = tmp_path / "0-pickle"
    shard.mkdir(parents=True)
    np.save(shard / ROWS, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (shard / KEYS).write_text("a\n")
    assert RowStore(tmp_path).missing(["a"]) == ["a"]


def test_other_things_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    add(tmp_path, ["a"])
    (tmp_path / "README").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no-keys").mkdir()
    np.save(tmp_path / "no-keys" / ROWS, np.zeros((1, 2, 3), np.uint8))
    assert values(RowStore(tmp_path), ["a"]) == [0]


@pytest.mark.parametrize("other", [np.zeros((3, 2, 4), np.uint8), np.zeros((3, 2, 3), np.float32)])
def test_rows_of_another_kind_are_left_alone(
    tmp_path: Path, other: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
) -> None:
    add(tmp_path, ["d"])
    shard = tmp_path / "zzz-other"
    shard.mkdir()
    np.save(shard / ROWS, other)
    (shard / KEYS).write_text("a\nb\nc\n")
    store = RowStore(tmp_path)
    assert values(store, ["d"]) == [0]
    assert store.missing(["a", "b", "c"]) == ["a", "b", "c"]


def test_more_shards_than_files_a_process_may_open(tmp_path: Path) -> None:
    script = """
import resource, sys, numpy as np
from pathlib import Path
from lensmount_training.data.rows import RowStore
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
store = RowStore(Path(sys.argv[1]))
for number in range(100):
    with store.added([str(number)], (1,), np.int32) as room:
        room[0] = number
keys = [str(number) for number in range(100)]
assert store.rows(keys)[:].flatten().tolist() == list(range(100))
assert RowStore(Path(sys.argv[1])).rows(keys)[:].flatten().tolist() == list(range(100))
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=with_tests(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_shard_larger_than_torch_maps_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_BY_TORCH", 0)
    assert values(add(tmp_path, ["a", "b"], 3), ["b", "a"]) == [4, 3]


def test_prune_keeps_what_was_used_last(tmp_path: Path) -> None:
    stores = {name: tmp_path / name / "deep" for name in ("old", "middle", "new")}
    for age, folder in enumerate(reversed(stores.values())):
        add(folder, ["a", "b"], age)
        (shard,) = shards(folder)
        used = time.time() - 1000 * (age + 1)
        os.utime(shard, (used, used))
    size = sum(path.stat().st_size for path in shards(stores["old"])[0].iterdir())
    assert prune(tmp_path, 3 * size) == 0
    RowStore(stores["old"])  # to open a store is to use it
    assert prune(tmp_path, 2 * size) == size
    there = {name: not RowStore(folder).missing(["a", "b"]) for name, folder in stores.items()}
    assert there == {"old": True, "middle": False, "new": True}
    assert prune(tmp_path, 0) == 2 * size
    assert not list(tmp_path.rglob(ROWS))


@pytest.mark.parametrize("limit", [0, rows.MAX_BY_TORCH])
def test_mapped_rows_stay_readable_when_their_shard_is_deleted(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_BY_TORCH", limit)
    add(tmp_path, ["a", "b"], 3)
    store = RowStore(tmp_path)
    mapped = store.rows(["b", "a"])
    assert prune(tmp_path, 0) > 0
    assert shards(tmp_path) == []
    assert mapped[:][:, 0, 0].tolist() == [4, 3]
    assert RowStore(tmp_path).missing(["a"]) == ["a"]


def test_prune_of_nothing(tmp_path: Path) -> None:
    assert prune(tmp_path / "nowhere") == 0


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    store = RowStore(tmp_path / "rows")
    with pytest.raises(InvalidInputError, match="No space left on device") as caught, store.added(["a"], (2, 3), "u1"):
        pytest.fail("there was no room")
    assert caught.value.field == "cache"
    assert caught.value.fix
    assert list((tmp_path / "rows").iterdir()) == []
    monkeypatch.undo()
    assert values(add(tmp_path / "rows", ["a"]), ["a"]) == [0]


def test_room_is_taken_from_the_disk_before_it_is_written_to(tmp_path: Path) -> None:
    with RowStore(tmp_path).added(["a"], (1 << 20,), np.uint8):
        (partial,) = tmp_path.glob(f"{PARTIAL}*")
        assert (partial / ROWS).stat().st_blocks * 512 >= 1 << 20


def test_a_cache_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInputError, match="the cache can not be used") as caught:
        add(tmp_path / "file" / "rows", ["a"])
    assert caught.value.field == "cache"
