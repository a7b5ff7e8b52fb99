"""A model repository with which a Triton Inference Server hosts the engine."""

from __future__ import annotations

from pathlib import Path

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.saving import save_tensors
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.export.folder import new_folder
from lensmount_server.triton.hosted import WEIGHTS
from lensmount_server.triton.wire import MODEL

MODEL_FILE = '''"""Written by `lensmount export triton`: Triton's Python backend runs lensmount's engine."""

import triton_python_backend_utils

from lensmount_server.triton.hosted import Hosted


class TritonPythonModel:
    def initialize(self, args):
        self._hosted = Hosted(args, triton_python_backend_utils)

    def execute(self, requests):
        return self._hosted.execute(requests)

    def finalize(self):
        self._hosted.close()
'''

CONFIG_FILE = """# Written by `lensmount export triton`.
backend: "python"
max_batch_size: 0
input [
  {{ name: "request" data_type: TYPE_UINT8 dims: [ -1 ] }},
  {{ name: "pictures" data_type: TYPE_UINT8 dims: [ -1, 3, -1, -1 ] optional: true }},
  {{ name: "package" data_type: TYPE_UINT8 dims: [ -1 ] optional: true }}
]
output [
  {{ name: "reply" data_type: TYPE_UINT8 dims: [ -1 ] }},
  {{ name: "logits" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "hashes" data_type: TYPE_UINT8 dims: [ -1, 32 ] }}
]
# The engine takes all cores, or the GPU, itself; a second instance would be a second engine with adapters of its own.
instance_group [ {{ kind: KIND_MODEL count: 1 }} ]
{parameters}
"""

README = """# {backbone}, for Triton Inference Server

Written by `lensmount export triton`. The folder that holds this one is a model repository, FOLDER here:

    tritonserver --model-repository FOLDER
    lensmount serve --backend triton --triton-url HOST:8001 --backbone {backbone} --weights {weights}

Triton's Python backend takes its packages from the first `python3` on PATH: put the environment in front that has
`lensmount[server]`, of the release that serves. Adapters are not in here: `lensmount serve` brings them, and brings
them again after Triton was restarted. `docs/triton.md` of lensmount tells the rest.
"""


def export_triton(repository: Path, backbone: Backbone, settings: EngineSettings) -> Path:
    """Write the model into a repository; returns its folder, which one of an earlier export makes room for.

    Raises InvalidInputError where something else is in its place.
    """
    with new_folder(repository / MODEL) as folder:
        (folder / "1").mkdir()
        (folder / "1" / "model.py").write_text(MODEL_FILE)
        tensors = {name: tensor.contiguous() for name, tensor in backbone.model.state_dict().items()}
        save_tensors(tensors, folder / "1" / WEIGHTS)
        (folder / "config.pbtxt").write_text(CONFIG_FILE.format(parameters=_parameters(backbone, settings)))
        weights = f"FOLDER/{MODEL}/1/{WEIGHTS}"
        (folder / "README.md").write_text(README.format(backbone=backbone.name, weights=weights))
    return repository / MODEL


def _parameters(backbone: Backbone, settings: EngineSettings) -> str:
    told = {
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint,
        "engine": settings.engine,
        "precision": settings.precision,
        "threads": settings.threads,
        "merged_mib": settings.merged_mib,
        "device": settings.device,
    }
    return "\n".join(
        f'parameters {{ key: "{name}" value: {{ string_value: "{value}" }} }}' for name, value in told.items()
    )
