"""A backbone gets the executor that the settings ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest
import torch

from engines import Member, alone, distance, lora_member
from factories import pictures, random_backbone, stacked
from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.cpu import costs
from lensmount_server.engine.cpu.executor import CpuExecutor
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.opening import choose, open_engine
from lensmount_server.engine.reference import ReferenceExecutor
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.frames import Still


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("test_resnet")


@pytest.fixture(scope="module")
def member(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Member:
    return lora_member(tmp_path_factory.mktemp("member"), backbone)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setattr(costs, "_time", lambda _: 1.0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("engine", "kind"), [("reference", ReferenceExecutor), ("torch", CpuExecutor), ("openvino", CpuExecutor)]
)
def test_the_engine_that_was_asked_for_answers_rightly(
    engine: str, kind: type, backbone: Backbone, member: Member
) -> None:
    opened = open_engine(backbone, EngineSettings(engine, "fp32", threads=2))
    assert type(opened.executor) is kind
    assert (opened.executor.name, opened.precision) == (engine, "fp32")
    assert opened.choice.reason
    assert [each.engine for each in opened.choice.candidates] == ([] if engine == "reference" else [engine])
    assert bool(opened.executor.batch_sizes) == (engine != "reference")
    shots = pictures(3)
    rows = stacked(backbone, shots)
    opened.mount(member.adapter)
    answers = opened.run([Job(Still(shot), (member.adapter,)) for shot in shots])
    assert max(distance(answers[i][0], alone(backbone, member, rows[i])) for i in range(3)) < 1e-4
    assert opened.counters().rows == 3
    opened.unmount(member.adapter.content_hash)
    opened.close()


def test_the_trunk_is_compiled_before_the_first_frame(backbone: Backbone) -> None:
    opened = open_engine(backbone, EngineSettings("torch", "fp32", threads=1))
    assert isinstance(opened.executor, CpuExecutor)
    assert opened.executor._trunk._parts.keys() == {backbone.preprocessing}
    opened.close()


def test_the_reference_is_measured_against_nothing(backbone: Backbone, tmp_path: Path) -> None:
    assert choose(backbone, EngineSettings("reference", threads=1)) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("merged_mib", [0, 3])
def test_merged_tails_get_the_memory_that_the_settings_allow(
    merged_mib: int, backbone: Backbone, member: Member
) -> None:
    opened = open_engine(backbone, EngineSettings("torch", "fp32", threads=1, merged_mib=merged_mib))
    assert isinstance(opened.executor, CpuExecutor)
    opened.mount(member.adapter)
    opened.executor.settle()
    assert (opened.executor._tails.get(member.adapter) is not None) == (merged_mib > 0)
    assert opened.executor._tails._budget == merged_mib << 20
    opened.close()


def test_torch_computes_on_as_many_cores_as_the_settings_say(backbone: Backbone) -> None:
    for threads in (1, 2):
        choose(backbone, EngineSettings("reference", threads=threads))
        assert torch.get_num_threads() == threads


def test_an_unknown_engine_is_refused(backbone: Backbone) -> None:
    with pytest.raises(InvalidInputError, match="no such engine") as caught:
        open_engine(backbone, EngineSettings("tensorrt", "fp32", threads=1))
    assert "openvino" in caught.value.fix
