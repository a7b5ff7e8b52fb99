"""Several processes train what one would; only the first speaks and writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from children import with_tests
from factories import random_backbone
from lensmount_training.context import Context
from lensmount_training.processes import Processes, current
from lensmount_training.sealed import openings
from together import STRATEGIES, together

TOGETHER = Path(__file__).parents[1] / "together.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(TOGETHER), str(folder)],
        env={**with_tests(), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_two_processes_give_the_result_of_one(name: str, ranks: list[dict[str, Any]], tmp_path: Path) -> None:
    alone = STRATEGIES[name].train(together(), Context(cache=tmp_path)).tensors
    first, second = (own["tensors"][name] for own in ranks)
    assert [own["count"] for own in ranks] == [2, 2]
    for key, tensor in alone.items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], tensor, rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(first[key], tensor) for key, tensor in alone.items())  # sums in another order


def test_only_the_first_speaks_and_writes(ranks: list[dict[str, Any]], folder: Path) -> None:
    first, second = ranks
    assert first["bars"]
    assert first["logged"]
    assert not second["bars"]
    assert not second["logged"]
    kept = sorted(path.relative_to(folder / "checkpoints").as_posix() for path in folder.rglob("training.pt"))
    assert {"dropout/training.pt", "lora/rank-2/training.pt"} <= set(kept)


def test_each_computes_its_share_of_the_caches(ranks: list[dict[str, Any]], folder: Path) -> None:
    shards = {path: path.read_text().split() for path in (folder / "cache").rglob("keys.txt")}
    pooled = [keys for path, keys in shards.items() if path.parts[-4:-2] == ("pooled", "identity")]
    assert sorted(map(len, pooled)) == [9, 10]
    assert len({key for keys in pooled for key in keys}) == 19


def test_statistics_of_a_part_of_a_batch_are_refused(ranks: list[dict[str, Any]]) -> None:
    assert [own["refused"] for own in ranks] == ["batch_norm", "batch_norm"]


def test_without_a_launcher_there_is_one() -> None:
    alone = current()
    assert alone == Processes(0, 1)
    tensor = torch.ones(3)
    alone.add([tensor])
    alone.wait()
    assert tensor.tolist() == [1, 1, 1]
    assert alone.same("a") == "a"
    context = Context()
    assert alone.context(context) is context


@given(st.integers(1, 40), st.integers(1, 5))
def test_shares_are_the_whole_and_even(length: int, count: int) -> None:
    shares = [Processes(rank, count).mine(length).tolist() for rank in range(count)]
    assert sorted(position for share in shares for position in share) == list(range(length))
    assert max(map(len, shares)) - min(map(len, shares)) <= 2


@given(st.integers(2, 40), st.integers(1, 5))
def test_a_share_reversed_is_the_batch_reversed(length: int, count: int) -> None:
    """What mixing needs: a picture's partner in its share is its partner in the batch."""
    for rank in range(count):
        share = Processes(rank, count).mine(length).tolist()
        even = len(share) - len(share) % 2
        assert [length - 1 - position for position in share[:even]] == share[:even][::-1]


@pytest.mark.slow
def test_a_dry_run_under_torchrun_is_one_plan(digits: Path, tmp_path: Path) -> None:
    save_file(random_backbone("test_vit").model.state_dict(), tmp_path / "weights.safetensors")
    words = ["train", str(digits), "--task", "digit", "--backbone", "test_vit", "--weights", "weights.safetensors"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**with_tests(), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launcher, "-m", "lensmount", *words, "--no-audit", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Nothing was trained.") == 1


@pytest.mark.slow
def test_the_command_under_torchrun_writes_one_package(digits: Path, tmp_path: Path) -> None:
    save_file(random_backbone("test_vit").model.state_dict(), tmp_path / "weights.safetensors")
    words = [str(digits), "--task", "digit", "--backbone", "test_vit", "--weights", "weights.safetensors"]
    words += ["--strategy", "lora", "--rank", "4", "--epochs", "1", "--last", "2", "--no-audit", "--seed", "3"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**with_tests(), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    for start, out in (([*launcher, "-m", "lensmount"], "two"), ([sys.executable, "-m", "lensmount"], "one")):
        command = [*start, "train", *words, "--out", out, "--cache", f"cache-{out}"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Next: lensmount register") == 1
    one, two = (load_file(tmp_path / out / "adapter_model.safetensors") for out in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-2, atol=1e-3)
    (record,) = tmp_path.glob("*.opened.jsonl")
    assert [opening["purpose"] for opening in openings(record)] == ["train two", "train one"]
