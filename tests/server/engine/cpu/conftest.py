"""Fast executors over the zoo, their trunks compiled once for each file of tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from engines import SideBySide, Zoo, lora_form, merged_form
from lensmount_server.engine.cpu.eager import EagerCompiler
from lensmount_server.engine.cpu.executor import CpuExecutor
from lensmount_server.engine.cpu.openvino import OpenVinoCompiler
from lensmount_server.engine.cpu.units import Compiler, Options

OPTIONS = Options((1, 2), wide=True)


@dataclass(frozen=True, eq=False)
class Fast:
    """The zoo's adapters, and executors that answer them in LoRA form and with merged tails."""

    zoo: Zoo
    lora: CpuExecutor
    merged: CpuExecutor

    @property
    def both(self) -> tuple[CpuExecutor, CpuExecutor]:
        return self.lora, self.merged


def fast_for(zoo: Zoo, name: str, precision: str) -> Fast:
    real: Compiler = (
        EagerCompiler(zoo.backbone, precision) if name == "torch" else OpenVinoCompiler(zoo.backbone, precision, 2)
    )
    compiler = SideBySide(real)
    lora = lora_form(zoo.backbone, compiler, OPTIONS)
    return Fast(zoo, lora, merged_form(zoo.backbone, compiler, OPTIONS, zoo.members))


@pytest.fixture(scope="module", params=["torch", "openvino"])
def fast(request: pytest.FixtureRequest, zoo: Zoo) -> Iterator[Fast]:
    made = fast_for(zoo, request.param, "fp32")
    yield made
    for executor in made.both:
        executor.close()


@pytest.fixture(scope="module", params=["torch", "openvino"])
def fast_bf16(request: pytest.FixtureRequest, zoo: Zoo) -> Iterator[Fast]:
    made = fast_for(zoo, request.param, "bf16")
    yield made
    for executor in made.both:
        executor.close()
