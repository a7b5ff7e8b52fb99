"""Tensors in a file that may be read by whoever the umask lets read: safetensors itself writes for its owner alone."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file; nothing is left of one that could not be written."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file(dict(tensors), path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    path.chmod(mode)
