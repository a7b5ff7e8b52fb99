"""What full memory looks like, and what does not."""

from __future__ import annotations

import pytest
import torch

from lensmount_training.memory import is_memory_full

FULL = [
    torch.cuda.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried …"),
    RuntimeError("could not create a primitive"),
    RuntimeError("std::bad_alloc"),
]
OTHER = [
    RuntimeError("shapes do not fit"),
    RuntimeError("could not create a primitive descriptor for a convolution forward propagation primitive"),
    ValueError("memory"),
]


@pytest.mark.parametrize(("error", "full"), [*((own, True) for own in FULL), *((own, False) for own in OTHER)])
def test_full_memory_is_known_by_its_words(error: Exception, full: bool) -> None:
    assert is_memory_full(error) == full
