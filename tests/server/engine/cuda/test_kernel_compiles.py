"""The kernel compiles to machine code for GPUs with every row of the table, and fits them.

Compiling needs no GPU: Triton brings the assembler. It is what the interpreter can not show.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import driver

from lensmount_server.engine.cuda import kernel as kernel_module
from lensmount_server.engine.cuda.configs import ANY, TABLE, Config, Row, pick
from lensmount_server.engine.cuda.kernel import INTERPRETED, edited_product
from lensmount_server.engine.cuda.stack import Stack
from lensmount_server.engine.cuda.tiles import Run

# What one block may use on compute capability 8.6 and 8.9, the least of all from 8.0 on (CUDA C++ Programming Guide).
SHARED_BYTES = 99 * 1024
TYPES = {2: ("fp16", "bf16"), 4: ("fp32",)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(row: Row, dtype: str, capability: int) -> Any:
    """The kernel for a row's largest rank, as `edited_linear` launches it."""
    config = row.config
    constants = {"rank": row.rank, "block_m": config.block_m, "block_n": config.block_n, "block_k": config.block_k}
    constants |= {"has_bias": True, "widen": False}
    types = dict.fromkeys(("x", "weight", "bias", "a", "b", "own_bias", "y"), f"*{dtype}")
    types |= {"scale": "*fp32", "tiles": "*i32", "n": "i32", "k": "i32"}
    function = triton.JITFunction(edited_product.fn)
    signature = {name: types.get(name, "constexpr") for name in function.arg_names}
    divisible = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(function.arg_names) if name in types}
    source = ASTSource(function, signature, constexprs=constants, attrs=divisible)
    options = {"num_warps": config.warps, "num_stages": config.stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def spilled_bytes(kernel: Any, folder: Path) -> int:
    """What a thread keeps on its stack, for want of registers."""
    file = folder / "kernel.cubin"
    file.write_bytes(kernel.asm["cubin"])
    dump = triton.knobs.nvidia.cuobjdump.path
    usage = subprocess.run([dump, "-res-usage", str(file)], capture_output=True, text=True, check=True).stdout
    found = re.search(r"STACK:(\d+)", usage)
    assert found, usage
    return int(found[1])


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_a_row_fits_every_gpu_and_half_precision_spills_nothing(row: Row, tmp_path: Path) -> None:
    kernel = compiled(row, TYPES[row.itemsize][0], 80)
    assert kernel.metadata.shared <= SHARED_BYTES
    tensor_cores = "mma.sync" in kernel.asm["ptx"]
    assert tensor_cores == (row.itemsize == 2)
    if row.itemsize == 2:
        assert spilled_bytes(kernel, tmp_path) == 0


@pytest.mark.parametrize("capability", [90, 100, 120])
def test_a_batch_of_frames_compiles_for_every_generation_after(capability: int) -> None:
    row = next(row for row in TABLE if (row.itemsize, row.lines, row.n, row.k, row.rank) == (2, ANY, ANY, ANY, 64))
    assert compiled(row, "bf16", capability).metadata.shared <= SHARED_BYTES


class Absent:
    """A driver that says which GPU there would be, so that a launch can be prepared to its end."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 80, 32)


class Prepared:
    """The kernel for a GPU, launched like the real one: arguments bound and code compiled, but nothing run."""

    def __init__(self) -> None:
        self.function = triton.JITFunction(edited_product.fn)
        self.launched: list[Any] = []

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        def launch(*tensors: Any, **constants: Any) -> None:
            self.launched.append(self.function.run(*tensors, grid=grid, warmup=True, **constants))

        return launch


@pytest.fixture
def absent_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_active", Absent())


@pytest.mark.skipif(not INTERPRETED, reason="with a GPU the other tests launch it")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "k", "bias"), [(384, 1536, True), (17, 1, False), (1, 64, True)])
@torch.inference_mode()
def test_a_launch_binds_its_arguments(
    n: int, k: int, *, bias: bool, dtype: torch.dtype, absent_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = Prepared()
    monkeypatch.setattr(kernel_module, "edited_product", prepared)
    module = nn.Linear(k, n, bias=bias, dtype=dtype)
    stack = Stack.empty(module, 2, 16, dtype)
    kernel_module.edited_linear(torch.zeros(9, k, dtype=dtype), module.weight, module.bias, stack, (Run(1, 9),))
    config = pick(9, n, k, 16, dtype.itemsize)
    (kernel,) = prepared.launched
    assert (kernel.metadata.num_warps, kernel.metadata.num_stages) == (config.warps, config.stages)


def test_a_row_that_does_not_fit_would_be_caught(tmp_path: Path) -> None:
    greedy = compiled(Row(2, ANY, ANY, ANY, 256, Config(128, 128, 64, 4, 4)), "fp16", 80)
    assert greedy.metadata.shared > SHARED_BYTES
    assert spilled_bytes(greedy, tmp_path) > 0
