"""Python processes that tests start."""

from __future__ import annotations

import os
from pathlib import Path


def with_tests() -> dict[str, str]:
    """The environment of a process that imports what lies beside this file."""
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *([known] if known else [])])}
