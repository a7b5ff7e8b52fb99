"""Which backbone a data directory is served with where nobody says: the one that it was served with before."""

from __future__ import annotations

from pathlib import Path

from lensmount_adapters.backbones.default import AUTO, BUNDLED, default_backbone

FILE = "backbone"


def choose_backbone(name: str, data_dir: Path) -> str:
    """`name`, or for "auto" what this data directory remembers; a new one gets the default of this machine.

    A directory of a release that did not remember was served with what came with pip.
    """
    if name != AUTO:
        return name
    try:
        return (data_dir / FILE).read_text().strip()
    except OSError:
        used = data_dir.is_dir() and any(path.suffix == ".sqlite" for path in data_dir.iterdir())
        return BUNDLED if used else default_backbone().name


def remember_backbone(name: str, data_dir: Path) -> None:
    """Keep it for the next start without a name."""
    partial = data_dir / f"{FILE}.partial"
    partial.write_text(f"{name}\n")
    partial.replace(data_dir / FILE)
