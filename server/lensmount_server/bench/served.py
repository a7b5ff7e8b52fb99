"""A `lensmount serve` of its own for a bench: another process on a free port, whose data is thrown away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file

from lensmount.serving import Server, serving
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_server.bench import specimens
from lensmount_server.bench.packages import Specimen, Writer, shots
from lensmount_server.engine.settings import EngineSettings

RANK, BLOCKS, PICTURES = 16, 4, 2


@contextmanager
def server(backbone: Backbone, settings: EngineSettings, scratch: Path, module: str = "lensmount") -> Iterator[Server]:
    """Serves the backbone, with the weights that it has here, until the `with` block ends.

    `module` is what Python runs as the command line. Raises UnavailableError when it does not start.
    """
    weights, log = scratch / f"{backbone.name}.safetensors", scratch / "serve.log"
    save_file(backbone.model.state_dict(), weights)
    with serving(_options(backbone, settings, weights, scratch / "data"), log, module) as started:
        yield started


def pair(backbone: Backbone) -> tuple[Adapter, Adapter]:
    """Two tasks as they are trained: LoRA in the last blocks (or the last stage) with a head, and a head alone."""
    names = [segment.name for segment in backbone.segments]
    last = len(names) - 2
    tail = range(last - BLOCKS + 1, last + 1) if names[-1] == "norm" else specimens.last_stage(backbone)
    return specimens.lora_adapter(backbone, tail, RANK, 0), specimens.head_adapter(backbone, 1)


def packages(backbone: Backbone, adapters: Sequence[Adapter], scratch: Path) -> list[Specimen]:
    """The adapters as packages that pass the gate, each under its own task's name."""
    writer = Writer(backbone, shots(backbone, PICTURES))
    return [writer.write(scratch / each.manifest.task, each, each.manifest.task) for each in adapters]


def _options(backbone: Backbone, settings: EngineSettings, weights: Path, data_dir: Path) -> list[str]:
    options = {
        "--backbone": backbone.name,
        "--weights": weights,
        "--data-dir": data_dir,
        "--device": settings.device,
        "--engine": settings.engine,
        "--precision": settings.precision,
        "--threads": settings.threads,
        "--merged-mib": settings.merged_mib,
        "--source-folder": data_dir.parent,
    }
    return [str(word) for option in options.items() for word in option]
