"""Specimens as packages on disk, and a whole serving path over a data directory."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lensmount.archive import open_archive
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.golden import Golden
from lensmount_adapters.package import content_hash, read_package, write_package
from lensmount_adapters.pictures import Pixels
from lensmount_server.catalog import Catalog
from lensmount_server.engine.plan import plan
from lensmount_server.engine.reference import ReferenceExecutor
from lensmount_server.engine.runtime import Engine
from lensmount_server.gate import Check
from lensmount_server.hotset import HotLimits, HotSet
from lensmount_server.mounts import Mounts
from lensmount_server.registry import Registry
from lensmount_server.scheduler import Scheduler


@dataclass(frozen=True, eq=False)
class Specimen:
    """A package on disk and what its adapter says of the bench's pictures: logits (pictures, labels)."""

    archive: Path
    content_hash: str
    task: str
    expected: Tensor


def shots(backbone: Backbone, count: int) -> list[Pixels]:
    """Random pictures of the backbone's own size, uint8 (height, width, 3)."""
    random = torch.Generator().manual_seed(3)
    shape = (backbone.preprocessing.height, backbone.preprocessing.width, 3)
    return [torch.randint(0, 256, shape, dtype=torch.uint8, generator=random).numpy() for _ in range(count)]


class Writer:
    """Writes packages whose golden logits, and whose expected answers, the reference executor computes."""

    def __init__(self, backbone: Backbone, pictures: Sequence[Pixels]) -> None:
        self.backbone = backbone
        self._pictures = pictures
        self._rows = torch.stack([backbone.preprocessing.prepare(pixels) for pixels in pictures])
        self._reference = ReferenceExecutor(backbone)

    def write(self, folder: Path, adapter: Adapter, task: str) -> Specimen:
        """A package of the adapter under another task's name."""
        (work,) = plan((frame, adapter) for frame in range(len(self._pictures)))
        (expected,) = self._reference.run(work, self._rows)
        _write(folder, self.backbone, adapter, task, Golden(tuple(self._pictures), expected.clone()))
        archive = folder.with_suffix(".zip")
        with open_archive(folder) as opened, archive.open("wb") as file:
            shutil.copyfileobj(opened.file, file)
        return Specimen(archive, content_hash(folder), task, expected)


def keep(registry: Registry, folder: Path, backbone: Backbone, adapter: Adapter, task: str) -> None:
    """Put an adapter into a registry as its task's live version, past the gate: nobody checks its golden logits."""
    black = np.zeros((32, 32, 3), np.uint8)
    _write(folder, backbone, adapter, task, Golden((black,), torch.zeros((1, len(adapter.manifest.labels)))))
    record, _ = registry.add(read_package(folder), folder)
    registry.set_alias(task, "live", record.id.version, None)


@asynccontextmanager
async def serving(engine: Engine, data_dir: Path, hot: int) -> AsyncIterator[Catalog]:
    """Registry, hot set, scheduler and catalog over the engine, as a server has them."""
    registry, mounts = Registry(data_dir), Mounts(HotSet(HotLimits(hot)))
    scheduler = Scheduler(engine, mounts)
    catalog = Catalog(registry, mounts, scheduler)
    try:
        await catalog.load_aliases()
        yield catalog
    finally:
        await catalog.close()
        await scheduler.close()
        registry.close()


def upload(archive: Path) -> Callable[[Path], Awaitable[Check]]:
    """What the upload of a client that has zipped its package comes to."""

    async def receive(path: Path) -> Check:
        start = time.perf_counter()
        await asyncio.to_thread(shutil.copyfile, archive, path)
        return Check("copied", archive.name, (time.perf_counter() - start) * 1e3)

    return receive


def _write(folder: Path, backbone: Backbone, adapter: Adapter, task: str, golden: Golden) -> None:
    manifest = adapter.manifest.model_copy(update={"task": task})
    write_package(folder, manifest, _tensors(backbone, adapter), golden, f"# {task}\n", _config(adapter))


def _tensors(backbone: Backbone, adapter: Adapter) -> dict[str, Tensor]:
    tensors = {f"{backbone.classifier}.{name}": tensor for name, tensor in adapter.head.state_dict().items()}
    for deltas in adapter.lora.values():
        for name, delta in deltas.items():
            tensors |= {f"{name}.lora_A.weight": delta.a, f"{name}.lora_B.weight": delta.b}
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _config(adapter: Adapter) -> dict[str, object] | None:
    modules = sorted(name for deltas in adapter.lora.values() for name in deltas)
    if not modules:
        return None
    rank = next(delta.a.shape[0] for deltas in adapter.lora.values() for delta in deltas.values())
    return {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": modules}
