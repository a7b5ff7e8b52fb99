from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kserving import triton_of
from serving import Served


@pytest.fixture
async def client(live: Served) -> AsyncIterator[Any]:
    """tritonclient's asynchronous client of a server on which `defect`, `surface` and `grade` are live."""
    async with triton_of(live) as client:
        yield client
