"""What every test shares: the helper modules beside this file, and one torch thread a worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Before anybody imports its library: no test depends on what the Hub answers, or waits for it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)


def pytest_sessionfinish() -> None:
    zygotes = sys.modules.get("zygotes")
    if zygotes is not None:
        zygotes.close_shared_zygote()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """An engine that a test opens takes all cores for torch; the tests behind it share them with other workers."""
    yield
    torch.set_num_threads(1)
