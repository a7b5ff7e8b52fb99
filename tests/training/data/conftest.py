"""A folder of two classes, and places to read it into."""

from __future__ import annotations

from pathlib import Path

import pytest

from stills import fill


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Six pictures of "ok", five of "hole"."""
    fill(tmp_path / "parts" / "ok", 6)
    fill(tmp_path / "parts" / "hole", 5, seed=100)
    return tmp_path / "parts"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of the test's own."""
    return tmp_path / "cache"
