"""Which file an index means, when it was written on another machine and its folders have changed since."""

from __future__ import annotations

import os
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath

from lensmount_training.data.files import below, files_below


class Finder:
    """Finds pictures below a folder by the ends of their paths; looks at the folders once, when it must."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> Path | str:
        """The file called `name`, or why there is none.

        It may lie where the name says; where the name without some of its first folders says; or be the only file
        anywhere below that shares the longest end with the name.
        """
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..")]
        for start in range(len(parts)):
            path = below(self.folder, os.path.join(*parts[start:]))  # noqa: PTH118 the parts may be of any form
            if isinstance(path, Path):
                return path
        return self._anywhere(parts)

    def _anywhere(self, parts: list[str]) -> Path | str:
        named = self._by_name.get(parts[-1], []) if parts else []
        if not named:
            return "no such file"
        best = max(_shared(path, parts) for path in named)
        like = [path for path in named if _shared(path, parts) == best]
        return like[0] if len(like) == 1 else f"{len(like)} files below the folder are called so"

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for path in files_below(self.folder):
            if isinstance(path, Path):
                found[path.name].append(path)
        return found


def _shared(path: Path, parts: list[str]) -> int:
    """How many parts of the two are the same from the end on."""
    pairs = zip(reversed(path.parts), reversed(parts), strict=False)
    return next((place for place, (own, other) in enumerate(pairs) if own != other), min(len(path.parts), len(parts)))
