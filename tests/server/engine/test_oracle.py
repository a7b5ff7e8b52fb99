"""Rows of a mixed batch equal PEFT's own merged model, run alone."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engines import Member, alone, distance, lora_member, serve
from factories import SMALL, lora_package, pictures, random_backbone, stacked
from lensmount.errors import ServerError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.backbone import fingerprint
from lensmount_server.engine.reference import ReferenceExecutor

TOLERANCE = 1e-4
FAR = 1e-2
RANKS = (1, 2, 4, 8, 16)


def random_members(folder: Path, backbone: Backbone, count: int, seed: int) -> list[Member]:
    """LoRA adapters with random ranks, scales and segments; the first one edits from the first segment on."""
    rng = random.Random(seed)
    editable = [i for i, segment in enumerate(backbone.segments) if segment.editable_modules()]
    members = []
    for number in range(count):
        chosen = rng.sample(editable, k=min(len(editable), rng.randint(1, 3)))
        segments = sorted({editable[0], *chosen} if number == 0 else set(chosen))
        options = {"rank": rng.choice(RANKS), "use_rslora": rng.random() < 0.5, "seed": 100 * seed + number}
        members.append(lora_member(folder / str(number), backbone, segments=segments, **options))
    return members


def worst(backbone: Backbone, members: Sequence[Member], oracles: Mapping[int, Member], rows: Tensor) -> float:
    """The largest distance of a mixed batch's rows to what `oracles` says of the adapter of that number."""
    wanted = [(frame, member.adapter) for frame in range(len(rows)) for member in members]
    answers = serve(ReferenceExecutor(backbone), wanted, rows)
    return max(
        distance(answers[frame, member.adapter.content_hash], alone(backbone, oracles[number], rows[frame]))
        for frame in range(len(rows))
        for number, member in enumerate(members)
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_resnet", "test_efficientnet"])
def test_a_mixed_batch_equals_pefts_merged_models_and_not_each_others(name: str, seed: int, tmp_path: Path) -> None:
    backbone = random_backbone(name, seed)
    members = random_members(tmp_path, backbone, 4, seed)
    rows = stacked(backbone, pictures(3, seed))
    own = dict(enumerate(members))
    assert worst(backbone, members, own, rows) < TOLERANCE
    swapped = {**own, 1: members[2], 2: members[1]}
    assert worst(backbone, members, swapped, rows) > FAR
    assert fingerprint(backbone.model) == backbone.fingerprint


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "tf_efficientnet_lite0"])
def test_a_model_of_the_size_that_people_serve_does_too(name: str, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    members = [
        lora_member(tmp_path / str(i), backbone, segments=segments, seed=i, rank=8)
        for i, segments in enumerate([(-2, -3), (-4,)])
    ]
    rows = stacked(backbone, pictures(2))
    assert worst(backbone, members, dict(enumerate(members)), rows) < TOLERANCE
    assert worst(backbone, members, {0: members[1], 1: members[0]}, rows) > FAR


@pytest.mark.parametrize(
    "name", ["test_vit3", "test_efficientnet_gn", "lcnet_050", "test_convnext", "test_convnext2", *SMALL]
)
def test_every_other_family_does_too(name: str, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    members = random_members(tmp_path, backbone, 3, seed=7)
    rows = stacked(backbone, pictures(2))
    assert worst(backbone, members, dict(enumerate(members)), rows) < TOLERANCE
    assert worst(backbone, members, {0: members[0], 1: members[2], 2: members[1]}, rows) > FAR


@pytest.mark.parametrize(
    "name", ["test_maxvit", "test_coatnet", "test_vit_relpos", "test_byobnet", "test_nfnet", "test_mambaout"]
)
def test_an_unknown_family_runs_each_adapter_apart_and_is_still_right(name: str, tmp_path: Path) -> None:
    """Relative position networks see no rows at all: what is added there must not be divided among rows."""
    backbone = random_backbone(name)
    assert not backbone.shared
    members = [lora_member(tmp_path / str(i), backbone, segments=(0,), seed=i, rank=2 + i) for i in range(2)]
    rows = stacked(backbone, pictures(3))
    assert worst(backbone, members, dict(enumerate(members)), rows) < TOLERANCE
    assert worst(backbone, members, {0: members[1], 1: members[0]}, rows) > FAR


@pytest.mark.parametrize(("name", "segment"), [("test_vit", -2), ("test_resnet", -2), ("test_efficientnet", -3)])
@torch.inference_mode()
def test_the_lora_part_matters_by_itself(name: str, segment: int, tmp_path: Path) -> None:
    """Otherwise the heads alone would tell adapters apart, and the other tests would show little."""
    backbone = random_backbone(name)
    member = lora_member(tmp_path, backbone, segments=(segment,))
    row = stacked(backbone, pictures(1))
    pooled = backbone.pool(backbone.forward_features(backbone.preprocessing.normalize(row)))
    assert distance(member.adapter.head(pooled)[0], alone(backbone, member, row[0])) > FAR


def test_a_module_that_is_read_but_never_called_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SwinV2 multiplies with the weight of `qkv` itself, so a hook on the module would be silent."""
    small: dict[str, Any] = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (2, 2, 4, 4)}
    monkeypatch.setitem(SMALL, "swinv2_tiny_window8_256", small)
    backbone = random_backbone("swinv2_tiny_window8_256")
    member = lora_member(tmp_path, backbone, segments=(0,))
    with pytest.raises(ServerError, match="did not run in its segment") as caught:
        serve(ReferenceExecutor(backbone), [(0, member.adapter)], stacked(backbone, pictures(1)))
    assert caught.value.value.endswith("attn.qkv")


def test_packages_of_the_same_seed_are_the_same(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    lora_package(tmp_path / "a", backbone, seed=1)
    lora_package(tmp_path / "b", backbone, seed=1)
    files = ["adapter_model.safetensors", "golden.safetensors", "task.json"]
    for file in files:
        assert (tmp_path / "a" / "package" / file).read_bytes() == (tmp_path / "b" / "package" / file).read_bytes()
