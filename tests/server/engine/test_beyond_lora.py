"""DoRA, biases and parts of a fused `qkv`, mixed in one batch, equal PEFT's own merged models in every form."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from engines import (
    Answers,
    Member,
    SideBySide,
    alone,
    arithmetic,
    beyond_lora,
    compiled_lora_form,
    distance,
    lora_form,
    merged_form,
    serve,
)
from factories import fitted, pictures, random_backbone, stacked
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.backbone import fingerprint
from lensmount_adapters.package import CONFIG_FILE
from lensmount_server.engine.cpu.eager import EagerCompiler
from lensmount_server.engine.cpu.openvino import OpenVinoCompiler
from lensmount_server.engine.cpu.units import Compiler, Options
from lensmount_server.engine.reference import ReferenceExecutor
from lensmount_server.engine.runtime import Executor
from tampering import Tamper, both, in_json, in_tensors

TOLERANCE = 1e-4
FAR = 1e-2
FRAMES = 2
OPTIONS = Options((1, 2))


@dataclass(frozen=True, eq=False)
class Kinds:
    """One adapter of each kind on a backbone, and what PEFT's own models say of the frames."""

    backbone: Backbone
    folder: Path
    members: Mapping[str, Member]
    rows: Tensor
    expected: Answers

    def wanted(self) -> list[tuple[int, Adapter]]:
        return [(frame, member.adapter) for frame in range(FRAMES) for member in self.members.values()]

    def off(self, executor: Executor) -> dict[str, float]:
        """How far each kind's worst row is from PEFT's model, when all share a batch."""
        answers = serve(executor, self.wanted(), self.rows)
        return {
            kind: max(
                distance(answers[key], self.expected[key]) for key in answers if key[1] == own.adapter.content_hash
            )
            for kind, own in self.members.items()
        }


@pytest.fixture(scope="module", params=["test_vit", "test_resnet", "test_efficientnet"])
def kinds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kinds:
    backbone = random_backbone(request.param)
    folder = tmp_path_factory.mktemp("kinds")
    members = beyond_lora(folder, backbone)
    rows = stacked(backbone, pictures(FRAMES))
    expected = {
        (frame, member.adapter.content_hash): alone(backbone, member, rows[frame])
        for frame in range(FRAMES)
        for member in members.values()
    }
    return Kinds(backbone, folder, members, rows, expected)


def test_the_plain_executor_equals_peft(kinds: Kinds) -> None:
    executor = ReferenceExecutor(kinds.backbone)
    assert max(kinds.off(executor).values()) < TOLERANCE
    assert executor.segment_rows == arithmetic(kinds.wanted(), len(kinds.backbone.segments))
    assert fingerprint(kinds.backbone.model) == kinds.backbone.fingerprint


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_the_fast_executor_equals_peft_in_both_forms(engine: str, kinds: Kinds) -> None:
    real: Compiler = (
        EagerCompiler(kinds.backbone, "fp32") if engine == "torch" else OpenVinoCompiler(kinds.backbone, "fp32", 2)
    )
    compiler = SideBySide(real)
    for executor in (
        lora_form(kinds.backbone, compiler, OPTIONS),
        compiled_lora_form(kinds.backbone, compiler, OPTIONS, kinds.members.values()),
        merged_form(kinds.backbone, compiler, OPTIONS, kinds.members.values()),
    ):
        assert max(kinds.off(executor).values()) < TOLERANCE
        executor.close()


def changed(ending: str, change: Callable[[Tensor], Tensor | None]) -> Tamper:
    """Change the tensors whose names end so, or remove them; there are some."""

    def tamper(tensors: dict[str, Tensor]) -> None:
        names = [name for name in tensors if name.endswith(ending)]
        assert names
        for name in names:
            tensor = change(tensors.pop(name))
            tensors.update({} if tensor is None else {name: tensor})

    return in_tensors(tamper)


def dropped(ending: str, setting: str, *, value: object) -> Tamper:
    """Neither the tensors nor PEFT's setting that asks for them."""
    return both(changed(ending, lambda _: None), in_json(CONFIG_FILE, setting, value=value))


FAULTS: dict[str, Tamper] = {
    "dora": dropped("magnitude_vector", "use_dora", value=False),
    "dora, biases": dropped("base_layer.bias", "bias", value="none"),
    "biases": dropped("base_layer.bias", "bias", value="none"),
    "all biases": changed("norm1.bias", lambda bias: bias / 2),
    "own biases": dropped("lora_B.bias", "lora_bias", value=False),
    "all biases, own": changed("lora_B.bias", lambda bias: bias / 2),
    "q and v": changed("qkv.lora_B.weight", lambda b: b.roll(len(b) // 3, 0)),
}


@pytest.mark.parametrize("kinds", ["test_vit"], indirect=True)
@pytest.mark.parametrize("kind", FAULTS)
def test_a_part_that_is_dropped_would_be_caught(kind: str, kinds: Kinds, tmp_path: Path) -> None:
    """What makes the kind is left out of the package, or wrong; everything else is as it was."""
    number = list(kinds.members).index(kind)
    folder = Path(shutil.copytree(kinds.folder / str(number) / "package", tmp_path / "package"))
    FAULTS[kind](folder)
    spoilt = fitted(folder, kinds.backbone)
    answer = serve(ReferenceExecutor(kinds.backbone), [(0, spoilt)], kinds.rows)[0, spoilt.content_hash]
    assert distance(answer, kinds.expected[0, kinds.members[kind].adapter.content_hash]) > FAR
