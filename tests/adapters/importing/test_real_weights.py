"""ViT-Tiny with its pretrained weights: an adapter trained on transformers' model, through the serving path."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engines import serve
from lensmount_adapters.adapter import fit
from lensmount_adapters.backbones import load_backbone
from lensmount_adapters.golden import compare_logits
from lensmount_adapters.importing.request import Request
from lensmount_adapters.importing.workflow import import_adapter
from lensmount_adapters.package import read_package
from lensmount_server.engine.reference import ReferenceExecutor
from vits import OLD_NAMES, logits_of, rewrite, save, tune, twin

OURS = Path(os.environ.get("LENSMOUNT_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
WEIGHTS, SHOTS = OURS / "vit_tiny_patch16_224.safetensors", OURS / "trashnet_mini"
pytestmark = pytest.mark.skipif(
    not (WEIGHTS.is_file() and SHOTS.is_dir()), reason="no test data; set LENSMOUNT_TEST_DATA to their folder"
)


@pytest.mark.parametrize("names", [{}, OLD_NAMES], ids=["transformers 5", "transformers 4"])
def test_queries_and_values_of_vit_tiny(names: dict[str, str], tmp_path: Path) -> None:
    backbone = load_backbone("vit_tiny_patch16_224", WEIGHTS)
    model = twin(backbone, labels=6)
    base = save(model, tmp_path / "base")
    peft = tune(model, tmp_path / "peft", ["q_proj", "v_proj"], r=8, lora_alpha=16, modules_to_save=["classifier"])
    rewrite(tmp_path / "peft", names)
    shots = tmp_path / "shots"
    shots.mkdir()
    for i, path in enumerate(sorted(SHOTS.rglob("*.jpg"))[::40][:8]):
        (shots / f"{i}.jpg").write_bytes(path.read_bytes())
    report = import_adapter(
        Request(str(tmp_path / "peft"), tmp_path / "out", "trash", weights=WEIGHTS, base=str(base), pictures=shots)
    )
    package = read_package(tmp_path / "out")
    adapter, own = fit(package, backbone), package.manifest.preprocessing
    rows = torch.stack([own.prepare(shot) for shot in package.golden.pictures])
    answers = serve(ReferenceExecutor(backbone), [(frame, adapter) for frame in range(len(rows))], rows)
    served = torch.stack([answers[frame, adapter.content_hash] for frame in range(len(rows))])
    originals = logits_of(peft, own.normalize(rows))
    assert len(rows) == len(list(shots.iterdir())) == 8
    assert compare_logits(package.golden, served, "fp32") < 5e-5
    assert report.difference < 5e-5
    assert float((served - originals).abs().max() / originals.abs().max()) < 5e-5
    base_alone = logits_of(twin(backbone, labels=6), own.normalize(rows))
    assert float((base_alone - originals).abs().max() / originals.abs().max()) > 0.1
    assert np.array_equal(np.asarray(Image.open(shots / "0.jpg").convert("RGB")), package.golden.pictures[0])
