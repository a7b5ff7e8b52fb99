"""The real server, as a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lensmount.serving import serving


@dataclass(frozen=True)
class Served:
    """What the server is told: its backbone, what it pulls, and the Tritons that compute for it, if any."""

    backbone: str
    weights: Path | None = None
    source: str | None = None
    triton_url: tuple[str, ...] = ()

    def options(self) -> list[str]:
        """As they are typed. Where `source` is a file, its folder is open to sources."""
        options = ["--backbone", self.backbone]
        if self.weights:
            options += ["--weights", str(self.weights)]
        if self.source and Path(self.source).is_file():
            options += ["--source-folder", str(Path(self.source).resolve().parent)]
        if self.triton_url:
            options += ["--backend", "triton"]
        return [*options, *(word for url in self.triton_url for word in ("--triton-url", url))]


@contextmanager
def started_server(folder: Path, served: Served) -> Iterator[str]:
    """Run `lensmount serve` while the context is open; gives its address. Its data and its log lie in `folder`.

    Raises UnavailableError when it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--data-dir", str(folder / "data"), *served.options()]
    with serving(options, folder / "server.log") as server:
        yield server.address
