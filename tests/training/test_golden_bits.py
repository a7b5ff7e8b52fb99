"""What the trainer packs as golden logits is what a real server answers in fp32, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from factories import pictures, random_backbone, stacked
from lensmount import AsyncClient
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.golden import Golden, write_golden
from lensmount_adapters.package import read_package
from lensmount_adapters.pictures import Pixels
from lensmount_server.app import running
from lensmount_server.config import ServeConfig
from lensmount_server.engine.settings import EngineSettings
from lensmount_training.context import Context
from lensmount_training.data import Pictures
from lensmount_training.packing import Description, manifest_of, pack
from lensmount_training.strategies import FeatureExtraction, FineTune, Lora, Problem, Strategy
from lensmount_training.strategies.schedule import Schedule
from videos import ANYWHERE
from zygotes import shared_zygote

LABELS = ("hole", "ok", "stain")
STRATEGIES: dict[str, Strategy] = {
    "features": FeatureExtraction(views=("identity",)),
    "finetune": FineTune(views=("identity",), full=True, deep_rate=1e-3, schedule=Schedule(epochs=1)),
    "lora": Lora(rank=4, alpha=8, views=("identity",), schedule=Schedule(epochs=1)),
}


def train(backbone: Backbone, strategy: Strategy, specimens: tuple[Pixels, ...], folder: Path) -> Path:
    """A package, trained on a few drawn pictures."""
    shots = Pictures.of(stacked(backbone, pictures(12)), torch.arange(12) % 3)
    problem = Problem(backbone, LABELS, shots, shots, seed=0)
    trained = strategy.train(problem, Context(cache=folder / "cache"))
    manifest = manifest_of(problem, trained, Description("defect", strategy.name, "0" * 64))
    pack(problem, trained, manifest, specimens, "# defect\n", folder / "package")
    return folder / "package"


@pytest.mark.parametrize("kind", STRATEGIES)
@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
async def test_a_server_in_fp32_answers_with_the_bits_of_the_trainer(kind: str, name: str, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    weights = tmp_path / "weights.safetensors"
    save_file(backbone.model.state_dict(), weights)
    package = train(backbone, STRATEGIES[kind], pictures(4, seed=7), tmp_path)
    engine = EngineSettings("reference", "fp32", threads=torch.get_num_threads())
    config = ServeConfig(tmp_path / "data", "127.0.0.1:0", name, weights, engine, addresses=ANYWHERE)
    async with running(config, shared_zygote()) as (address, _), AsyncClient(address, timeout=60) as client:
        done = await client.register(package, alias="live")
        detail = next(check.detail for check in done.checks if check.name == "golden")
        assert detail == "4 pictures in fp32, largest difference 0.0e+00 of the scale"
        golden = read_package(package).golden
        for shot, logits in zip(golden.pictures, golden.logits, strict=True):
            (answer,) = await client.infer(shot, "defect")
            assert [each.score for each in answer.scores] == torch.softmax(logits, 0).tolist()


async def test_a_server_tells_the_least_difference(tmp_path: Path) -> None:
    """The negative control: the last bit of one logit is seen."""
    backbone = random_backbone("test_vit")
    weights = tmp_path / "weights.safetensors"
    save_file(backbone.model.state_dict(), weights)
    package = train(backbone, STRATEGIES["features"], pictures(4, seed=7), tmp_path)
    golden = read_package(package).golden
    logits = golden.logits.clone()
    place = int(logits.abs().argmax())
    logits.view(-1)[place] = torch.nextafter(logits.view(-1)[place], torch.tensor(torch.inf))
    write_golden(package, Golden(golden.pictures, logits))
    engine = EngineSettings("reference", "fp32", threads=torch.get_num_threads())
    config = ServeConfig(tmp_path / "data", "127.0.0.1:0", "test_vit", weights, engine, addresses=ANYWHERE)
    async with running(config, shared_zygote()) as (address, _), AsyncClient(address, timeout=60) as client:
        done = await client.register(package)
    detail = next(check.detail for check in done.checks if check.name == "golden")
    assert detail.startswith("4 pictures in fp32, largest difference ")
    assert "difference 0.0e+00" not in detail
