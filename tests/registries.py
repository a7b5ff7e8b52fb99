"""Packages of some kilobytes that are right in all but their weights, and registries to keep them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from lensmount.errors import UnavailableError
from lensmount_adapters.golden import Golden
from lensmount_adapters.heads import HeadSpec
from lensmount_adapters.manifest import BackboneRef, Manifest, Provenance
from lensmount_adapters.package import Package, read_package, write_package
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import VersionId
from lensmount_server.registry import By, Filter, Places, Record, Registry

FINGERPRINT = "f" * 64
ME = By("me", "here")
HALF = (0.5, 0.5, 0.5)
PREPROCESSING = Preprocessing(
    height=32, width=32, interpolation="bicubic", crop_pct=1.0, crop_mode="center", mean=HALF, std=HALF
)


def small_manifest(task: str, labels: tuple[str, ...] = ("ok", "scratch")) -> Manifest:
    """What such a package says of itself."""
    return Manifest(
        task=task,
        labels=list(labels),
        head=HeadSpec(),
        strategy="test",
        fork=3,
        backbone=BackboneRef(name="test_vit", fingerprint=FINGERPRINT),
        preprocessing=PREPROCESSING,
        provenance=Provenance(data_hash="0" * 64, seed=0, created="2026-01-01T00:00:00Z"),
    )


def write_small(folder: Path, task: str, card: str, labels: tuple[str, ...] = ("ok", "scratch")) -> Package:
    """Write a package; another `card` makes it another content."""
    golden = Golden((np.zeros((2, 2, 3), np.uint8),), torch.zeros(1, len(labels)))
    write_package(folder, small_manifest(task, labels), {"head.weight": torch.zeros(len(labels), 4)}, golden, card)
    return read_package(folder)


@dataclass(frozen=True)
class Shelf:
    """Packages that were written once, to be copied for each upload."""

    folder: Path

    def package(self, card: str, task: str = "defect") -> tuple[Package, Path]:
        """The package with this card."""
        return _written(self.folder / task / card, task, card)


@cache
def _written(folder: Path, task: str, card: str) -> tuple[Package, Path]:
    return read_package(folder) if folder.exists() else write_small(folder, task, f"# {card}\n"), folder


def add(registry: Registry, shelf: Shelf, card: str, task: str = "defect", by: By = ME) -> tuple[Record, bool]:
    """Register a package as a server does: unpacked in a staging folder first."""
    package, folder = shelf.package(card, task)
    with registry.staging() as staging:
        return registry.add(package, Path(shutil.copytree(folder, staging / "package")), by)


def add_all(registry: Registry, shelf: Shelf, count: int, task: str = "defect") -> list[VersionId]:
    """So many versions of a task, with the cards 1, 2, …"""
    return [add(registry, shelf, str(card), task)[0].id for card in range(1, count + 1)]


@contextmanager
def opened(directory: Path, places: Places | None = None) -> Iterator[Registry]:
    """A registry that is closed at the end."""
    registry = Registry(directory, places)
    try:
        yield registry
    finally:
        registry.close()


def points(registry: Registry) -> dict[tuple[str, str], int]:
    """What every alias points at, by task and alias."""
    return {(version.task, alias): version.version for alias, version, _ in registry.pointed()[0]}


def numbers(registry: Registry, task: str = "") -> set[tuple[str, int]]:
    """The versions that are there."""

    return {(each.id.task, each.id.version) for each in registry.page(10_000, None, Filter(task=task))}


def refusal(work: Callable[[], object]) -> UnavailableError | None:
    """Why something can not be done now; None when it was done."""
    try:
        work()
    except UnavailableError as error:
        return error
    return None
