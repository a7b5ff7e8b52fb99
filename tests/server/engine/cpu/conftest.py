"""Fast executors over the zoo, their trunks compiled once for each file of tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from engines import SideBySide, Zoo, compiled_lora_form, lora_form, merged_form
from lensmount_server.engine.cpu.eager import EagerCompiler
from lensmount_server.engine.cpu.executor import CpuExecutor
from lensmount_server.engine.cpu.openvino import OpenVinoCompiler
from lensmount_server.engine.cpu.units import Compiler, Options

OPTIONS = Options((1, 2), wide=True)


@dataclass(frozen=True, eq=False)
class Fast:
    """The zoo's adapters, and executors that answer them in eager and compiled LoRA form and with merged tails."""

    zoo: Zoo
    lora: CpuExecutor
    compiled: CpuExecutor
    merged: CpuExecutor

    @property
    def forms(self) -> tuple[CpuExecutor, ...]:
        return self.lora, self.compiled, self.merged


def fast_for(zoo: Zoo, name: str, precision: str) -> Fast:
    real: Compiler = (
        EagerCompiler(zoo.backbone, precision) if name == "torch" else OpenVinoCompiler(zoo.backbone, precision, 2)
    )
    compiler = SideBySide(real)
    lora = lora_form(zoo.backbone, compiler, OPTIONS)
    compiled = compiled_lora_form(zoo.backbone, compiler, OPTIONS, zoo.members)
    assert bool(compiled._forms._bound) == (name == "openvino" and zoo.backbone.name == "test_vit")
    return Fast(zoo, lora, compiled, merged_form(zoo.backbone, compiler, OPTIONS, zoo.members))


@pytest.fixture(scope="module", params=["torch", "openvino"])
def fast(request: pytest.FixtureRequest, zoo: Zoo) -> Iterator[Fast]:
    made = fast_for(zoo, request.param, "fp32")
    yield made
    for executor in made.forms:
        executor.close()


@pytest.fixture(scope="module", params=["torch", "openvino"])
def fast_bf16(request: pytest.FixtureRequest, zoo: Zoo) -> Iterator[Fast]:
    made = fast_for(zoo, request.param, "bf16")
    yield made
    for executor in made.forms:
        executor.close()
