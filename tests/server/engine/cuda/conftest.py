"""One device for these tests: a GPU where there is one, else the CPU with Triton's interpreter.

The interpreter is chosen when the kernel's module is imported, so that happens here, before any
test imports it; the variable is gone again afterwards, and other tests never see it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator

import pytest
import torch

# Some builds of torch come without it: those for CPUs alone, and those for other systems than Linux.
TRITON = importlib.util.find_spec("triton") is not None
collect_ignore = (
    []
    if TRITON
    else [f"test_{name}.py" for name in ("convolution", "executor", "kernel", "kernel_compiles", "warm_up")]
)

GPU = torch.cuda.is_available()
KERNEL = "lensmount_server.engine.cuda.kernel"

with pytest.MonkeyPatch.context() as patch:
    if not GPU:
        patch.setenv("TRITON_INTERPRET", "1")
    kernel = importlib.import_module(KERNEL) if TRITON else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not GPU:
            item.add_marker(pytest.mark.skip(reason="no CUDA device: torch.cuda.is_available() is false"))


@pytest.fixture(scope="session", autouse=True)
def interpreted() -> None:
    """Otherwise these tests would fail in ways that do not say why."""
    if kernel and kernel.INTERPRETED == GPU:
        pytest.fail(f"{KERNEL} was imported before this folder's conftest, with another TRITON_INTERPRET")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda", 0) if GPU else torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
