"""What this process takes in memory."""

from __future__ import annotations

import gc
import os
from pathlib import Path


def rss_bytes() -> int:
    """Resident bytes of this process (Linux, proc(5)), after a garbage collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
