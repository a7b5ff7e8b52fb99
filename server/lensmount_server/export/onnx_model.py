"""A task as one plain ONNX model, which any Triton serves by its onnxruntime backend: no lensmount, no Python.

The adapter is merged into its backbone, and normalisation and calibration are inside. What was written is judged by
the package's golden pictures before it gets its name.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from lensmount.errors import IncompatibleError, UnavailableError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.admission import Admitted
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.families import segments_of
from lensmount_adapters.golden import Golden, compare_logits
from lensmount_adapters.heads import run_head
from lensmount_adapters.outcome import probabilities
from lensmount_server.engine.lowered import with_tensors
from lensmount_server.export.folder import new_folder

MAX_BATCH = 32
NAMES = ["scores", "logits"]

CONFIG_FILE = """# Written by `lensmount export onnx`.
backend: "onnxruntime"
max_batch_size: {batch}
input [ {{ name: "pictures" data_type: TYPE_UINT8 dims: [ 3, {height}, {width} ] }} ]
output [
  {{ name: "scores" data_type: TYPE_FP32 dims: [ {labels} ] label_filename: "labels.txt" }},
  {{ name: "logits" data_type: TYPE_FP32 dims: [ {labels} ] }}
]
dynamic_batching {{ }}
"""

README = """# {task}, as a plain ONNX model

Written by `lensmount export onnx`. The folder that holds this one is a model repository of Triton's:

    tritonserver --model-repository FOLDER

`pictures`: UINT8 RGB, planes first, {width}x{height}: the shorter side of a frame resized ({interpolation}) to the
size divided by {crop}, the centre cut out (crop mode {mode}). Normalisation is in the model.
`scores`: calibrated probabilities of the labels in labels.txt, in that order. {decision}
`logits`: what they were made of.

Backbone {backbone}, adapter {content_hash}.
"""


class Whole(nn.Module):
    """From pictures (rows, 3, height, width) in uint8 to scores and logits (rows, labels) in float32."""

    def __init__(self, adapter: Adapter, backbone: Backbone) -> None:
        super().__init__()
        self.model = with_tensors(backbone.model, adapter.merged(backbone.model)).eval()
        self.head = adapter.head
        self._manifest = adapter.manifest
        self._backbone = replace(backbone, model=self.model, segments=segments_of(self.model))
        own = adapter.manifest.preprocessing
        self.register_buffer("mean", torch.tensor(own.mean).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(own.std).view(1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and logits."""
        x = (pictures.float() / 255 - self.get_buffer("mean")) / self.get_buffer("deviation")
        features = self._backbone.forward_features(x)
        logits = run_head(self.head, self._backbone, features, self._backbone.pool(features))
        return probabilities(self._manifest, logits), logits


def export_onnx(repository: Path, admitted: Admitted, backbone: Backbone) -> tuple[Path, float]:
    """Write a task's model into a repository; returns its folder, and how far its golden logits are from the trainer's.

    Raises InvalidInputError where something else is in its place, UnavailableError for a model that can not be
    written as ONNX, IncompatibleError for one that does not answer as the trainer's did.
    """
    adapter, manifest = admitted.adapter, admitted.adapter.manifest
    with new_folder(repository / manifest.task) as folder:
        (folder / "1").mkdir()
        model = folder / "1" / "model.onnx"
        _write(Whole(adapter, backbone), adapter, model)
        difference = _judge(model, admitted.package.golden, adapter)
        size = {"height": manifest.preprocessing.height, "width": manifest.preprocessing.width}
        config = CONFIG_FILE.format(batch=MAX_BATCH, labels=len(manifest.labels), **size)
        (folder / "config.pbtxt").write_text(config)
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in manifest.labels))
        (folder / "README.md").write_text(_readme(adapter))
    return repository / manifest.task, difference


def _write(whole: Whole, adapter: Adapter, path: Path) -> None:
    own = adapter.manifest.preprocessing
    sample = torch.zeros(2, 3, own.height, own.width, dtype=torch.uint8)
    rows = {"pictures": {0: torch.export.Dim("rows", min=1, max=MAX_BATCH)}}
    quiet, before = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch's exporter, about itself
            torch.onnx.export(
                whole, (sample,), str(path), input_names=["pictures"], output_names=NAMES, dynamic_shapes=rows,
                dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        fix = "serve this task with lensmount, or with `lensmount export triton`"
        message = f"it can not be written as ONNX: {str(error).strip().splitlines()[0]}"
        raise UnavailableError(message, field="backbone", value=adapter.manifest.backbone.name, fix=fix) from error
    finally:
        quiet.setLevel(before)


def _judge(path: Path, golden: Golden, adapter: Adapter) -> float:
    """How far the model's golden logits are from the trainer's; raises IncompatibleError when that is too far."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    prepared = [adapter.manifest.preprocessing.prepare(pixels) for pixels in golden.pictures]
    rows = [session.run(["logits"], {"pictures": each[None].numpy()})[0][0] for each in prepared]
    together = session.run(["logits"], {"pictures": torch.stack(prepared).numpy()})[0]
    alone = torch.stack([torch.from_numpy(row) for row in rows])
    difference = max(compare_logits(golden, each, "fp32") for each in (alone, torch.from_numpy(together)))
    if alone.shape != golden.logits.shape:
        raise IncompatibleError("other labels came out than went in", field="logits", value=tuple(alone.shape))
    return difference


def _readme(adapter: Adapter) -> str:
    manifest = adapter.manifest
    own = manifest.preprocessing
    several = (
        "Every label at or above its threshold is the answer"
        if manifest.kind == "multi_label"
        else ("The label with the largest score divided by its threshold is the answer")
    )
    thresholds = f": {', '.join(f'{each:g}' for each in manifest.thresholds)}." if manifest.thresholds else "."
    return README.format(
        task=manifest.task,
        width=own.width,
        height=own.height,
        interpolation=own.interpolation,
        crop=own.crop_pct,
        mode=own.crop_mode,
        decision=several + thresholds,
        backbone=manifest.backbone.name,
        content_hash=adapter.content_hash,
    )
