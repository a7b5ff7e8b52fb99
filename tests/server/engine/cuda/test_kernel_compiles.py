"""The kernel compiles to machine code for GPUs with every row of the table, and fits them.

Compiling needs no GPU: Triton brings the assembler. It is what the interpreter can not show.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lensmount_server.engine.cuda.configs import ANY, TABLE, Config, Row
from lensmount_server.engine.cuda.kernel import edited_product

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
    types = dict.fromkeys(("x", "weight", "bias", "a", "b", "y"), f"*{dtype}")
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


@pytest.mark.parametrize("capability", [86, 89, 90, 100, 120])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_batch_of_frames_compiles_for_every_generation_from_8_on(dtype: str, capability: int) -> None:
    row = next(row for row in TABLE if (row.itemsize, row.lines, row.n, row.k, row.rank) == (2, ANY, ANY, ANY, 64))
    assert compiled(row, dtype, capability).metadata.shared <= SHARED_BYTES


def test_a_row_that_does_not_fit_would_be_caught(tmp_path: Path) -> None:
    greedy = compiled(Row(2, ANY, ANY, ANY, 256, Config(128, 128, 64, 4, 4)), "fp16", 80)
    assert greedy.metadata.shared > SHARED_BYTES
    assert spilled_bytes(greedy, tmp_path) > 0
