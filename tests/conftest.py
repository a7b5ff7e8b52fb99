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


@pytest.fixture(autouse=True, scope="session")
def _own_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a user keeps, such as who opened a test set, tests and the processes that they start keep apart."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """An engine that a test opens takes all cores for torch; the tests behind it share them with other workers."""
    yield
    torch.set_num_threads(1)
