"""The whole gate on this machine, without a server: what `register` would say of a package."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lensmount.errors import LensmountError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.admission import Admitted, admit_to, look_at
from lensmount_adapters.backbones import Backbone, load_backbone
from lensmount_adapters.manifest import Manifest
from lensmount_adapters.pictures import Pixels
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.opening import open_engine
from lensmount_server.engine.runtime import Engine
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.frames import Still
from lensmount_server.gate import Check, golden_check, noted, passed
from lensmount_server.policy import Policy
from lensmount_server.tools.unpacking import unpacked


@dataclass(frozen=True)
class Setting:
    """What a package is held against: a backbone (its own where none is named), an engine where one is wanted."""

    backbone: str | None = None
    weights: Path | None = None
    engine: EngineSettings | None = None
    policy: Policy = field(default_factory=Policy)

    def load(self, manifest: Manifest) -> Backbone:
        """The backbone; raises InvalidInputError or UnavailableError where it is not to be had."""
        return load_backbone(self.backbone or manifest.backbone.name, self.weights)


@dataclass(frozen=True)
class Result:
    """The checks that were passed, in order, and the one error, if there is one."""

    checks: tuple[Check, ...]
    error: LensmountError | None = None


def check_package(path: Path, setting: Setting) -> Result:
    """Take a folder or .zip file through the whole gate: reference in fp32, engine where wanted, policy. Blocks."""
    checks: list[Check] = []
    try:
        with unpacked(path) as folder:
            _check(folder, setting, checks)
    except LensmountError as error:
        return Result(tuple(checks), error)
    return Result(tuple(checks))


def _check(folder: Path, setting: Setting, checks: list[Check]) -> None:
    seen = look_at(folder, noted(checks))
    backbone = setting.load(seen.described.manifest)
    admitted = admit_to(backbone, seen, noted(checks))
    run_golden(admitted, Engine(backbone), checks)
    if setting.engine is not None:
        run_golden(admitted, open_engine(backbone, setting.engine), checks)
    start = time.perf_counter()
    passed(checks, "policy", setting.policy.check(admitted.package.manifest), start)


def run_golden(admitted: Admitted, engine: Engine, checks: list[Check]) -> None:
    """Warm-up and golden check through an engine, which is closed then; raises IncompatibleError."""
    start = time.perf_counter()

    async def logits(pixels: Pixels, adapter: Adapter) -> Tensor:
        return engine.run([Job(Still(pixels), (adapter,))])[0][0]

    try:
        engine.mount(admitted.adapter)
        engine.settle(admitted.adapter.content_hash)
        passed(checks, "warm-up", f"answers with numbers in {engine.executor.name}", start)
        asyncio.run(golden_check(admitted, logits, engine.precision, checks))
    finally:
        engine.close()
