"""An adapter that runs without a server gives the bits of the reference engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engines import Member, Zoo, make_zoo, serve
from factories import pictures, random_backbone
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.answering import answer, answer_each, logits_of, run_segments
from lensmount_adapters.backbones.backbone import fingerprint
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.reference import ReferenceExecutor
from lensmount_server.engine.runtime import Engine
from lensmount_server.frames import Still

KINDS = {
    "lora": 0,
    "rs-lora from the stem": 3,
    "lora and replaced": 4,
    "replaced": 6,
    "replaced stem": 7,
    "head": 8,
    "mlp head": 9,
    "attention head": 10,
    "cosine head": 11,
}


@pytest.fixture(scope="module", params=["test_vit", "test_resnet", "test_efficientnet"])
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return make_zoo(tmp_path_factory.mktemp("zoo"), random_backbone(request.param))


@pytest.fixture(params=KINDS)
def member(zoo: Zoo, request: pytest.FixtureRequest) -> Member:
    return zoo.members[KINDS[request.param]]


def served(zoo: Zoo, adapter: Adapter, rows: Tensor) -> Tensor:
    """The reference executor's logits of one batch."""
    answers = serve(ReferenceExecutor(zoo.backbone), [(place, adapter) for place in range(len(rows))], rows)
    return torch.stack([answers[place, adapter.content_hash] for place in range(len(rows))])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_has_the_bits_of_the_reference_executor(zoo: Zoo, member: Member, count: int) -> None:
    rows = zoo.rows[:count]
    assert torch.equal(answer(member.adapter, zoo.backbone, rows), served(zoo, member.adapter, rows))


def test_pictures_alone_have_the_bits_of_the_reference_engine(zoo: Zoo, member: Member) -> None:
    shots = pictures(3, seed=5)
    engine = Engine(zoo.backbone)
    alone = torch.stack([engine.run([Job(Still(shot), (member.adapter,))])[0][0] for shot in shots])
    assert torch.equal(answer_each(member.adapter, zoo.backbone, shots), alone)


def test_other_edits_have_other_bits(zoo: Zoo) -> None:
    adapter = zoo.members[0].adapter
    without = replace(adapter, lora={}, fork=len(zoo.backbone.segments))
    assert not torch.equal(answer(adapter, zoo.backbone, zoo.rows), answer(without, zoo.backbone, zoo.rows))


def test_the_backbone_stays_as_it_was(zoo: Zoo, member: Member) -> None:
    answer(member.adapter, zoo.backbone, zoo.rows)
    assert fingerprint(zoo.backbone.model) == zoo.backbone.fingerprint
    assert not [name for name, module in zoo.backbone.model.named_modules() if module._forward_hooks]


def test_segments_may_be_run_in_two_parts(zoo: Zoo, member: Member) -> None:
    adapter, backbone = member.adapter, zoo.backbone
    with torch.no_grad():
        x = backbone.preprocessing.normalize(zoo.rows)
        middle = run_segments(adapter, backbone, x, 0, 3)
        features = run_segments(adapter, backbone, middle, 3)
        assert torch.equal(logits_of(adapter, backbone, features), answer(adapter, backbone, zoo.rows))


def test_gradients_flow_through_the_edits(zoo: Zoo, member: Member) -> None:
    adapter, backbone = member.adapter, zoo.backbone
    x = backbone.preprocessing.normalize(zoo.rows[:1]).requires_grad_()
    logits = logits_of(adapter, backbone, run_segments(adapter, backbone, x))
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert float(gradient.abs().max()) > 0
