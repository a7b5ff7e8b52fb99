"""What people write to serve a task by Triton: a model in Python with the interface of a KServe model.

The same engine computes as in `lensmount serve`, in one process or two, with Triton's dynamic batching or without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import dlpack

from lensmount_adapters.backbones import Backbone, load_backbone
from lensmount_adapters.outcome import probabilities
from lensmount_server.bench import specimens
from lensmount_server.bench.wire import trivial
from lensmount_server.bench.wire.load import INPUT, OUTPUT
from lensmount_server.engine.opening import open_engine
from lensmount_server.engine.plan import plan
from lensmount_server.engine.settings import EngineSettings

SEED = 1
MAX_BATCH = 16
WARM_UP = (1, 2, 4, 8, 16)

MODEL_FILE = """import triton_python_backend_utils

from lensmount_server.bench.wire.rival import Rival


class TritonPythonModel:
    def initialize(self, args):
        self._rival = Rival(args, triton_python_backend_utils)

    def execute(self, requests):
        return self._rival.execute(requests)
"""

CONFIG_FILE = """backend: "python"
max_batch_size: {batch}
input [ {{ name: "{input}" data_type: TYPE_UINT8 dims: [ {size}, {size}, 3 ] }} ]
output [ {{ name: "{output}" data_type: TYPE_FP32 dims: [ {labels} ] }} ]
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
{batching}
parameters {{ key: "weights" value: {{ string_value: "{weights}" }} }}
parameters {{ key: "engine" value: {{ string_value: "{engine}" }} }}
parameters {{ key: "precision" value: {{ string_value: "{precision}" }} }}
parameters {{ key: "threads" value: {{ string_value: "{threads}" }} }}
"""


@dataclass(frozen=True)
class Form:
    """One way to set Triton up; `delay_us` is how long it waits for company, None: it puts nothing together."""

    instances: int
    delay_us: int | None

    @property
    def model(self) -> str:
        """Its model's name."""
        return f"wire_{'alone' if self.delay_us is None else self.delay_us}_{self.instances}"

    def __str__(self) -> str:
        """For people."""
        batching = "no batching" if self.delay_us is None else f"batching, {self.delay_us / 1000:g} ms delay"
        return f"{batching}, {self.instances} instance{'s' if self.instances > 1 else ''}"


FORMS = tuple(Form(instances, delay_us) for instances in (1, 2) for delay_us in (None, 0, 1000))


def write(repository: Path, weights: Path, settings: EngineSettings, forms: Sequence[Form]) -> None:
    """A model for each of the forms."""
    for form in forms:
        folder = repository / form.model
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "model.py").write_text(MODEL_FILE)
        (folder / "config.pbtxt").write_text(_config(form, weights, settings))


class Rival:
    """What model.py delegates to; `backend` is Triton's module `triton_python_backend_utils`.

    Pictures are put together as they lie in Triton's shared memory, and turned to the engine's layout in one copy.
    """

    def __init__(self, args: Mapping[str, str], backend: Any) -> None:
        told = {name: each["string_value"] for name, each in json.loads(args["model_config"])["parameters"].items()}
        self._backend = backend
        backbone = load_backbone(trivial.NAME, Path(told["weights"]))
        settings = EngineSettings(told["engine"], told["precision"], int(told["threads"]))
        self._adapter = specimens.head_adapter(backbone, SEED)
        self._executor = open_engine(backbone, settings).executor
        self._executor.mount(self._adapter)
        self._executor.settle()
        for rows in WARM_UP:
            self._scores(torch.zeros((rows, trivial.SIZE, trivial.SIZE, 3), dtype=torch.uint8))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request."""
        pictures = [self._input(request) for request in requests]
        whole = self._scores(pictures[0] if len(pictures) == 1 else torch.cat(pictures))
        return [self._response(scores) for scores in _split(whole, [len(each) for each in pictures])]

    def _scores(self, pictures: Tensor) -> Tensor:
        """Scores (rows, labels) of pictures uint8 (rows, height, width, 3)."""
        (work,) = plan((place, self._adapter) for place in range(len(pictures)))
        logits = self._executor.run(work, pictures.permute(0, 3, 1, 2).contiguous())
        return probabilities(self._adapter.manifest, self._executor.fetch(logits)[0])

    def _input(self, request: Any) -> Tensor:
        taken: Tensor = dlpack.from_dlpack(self._backend.get_input_tensor_by_name(request, INPUT).to_dlpack())
        return taken

    def _response(self, scores: Tensor) -> Any:
        return self._backend.InferenceResponse([self._backend.Tensor.from_dlpack(OUTPUT, scores)])


def settings_in(form: Form, settings: EngineSettings, cores: int) -> EngineSettings:
    """The cores dealt out to the instances."""
    return replace(settings, threads=max((settings.threads or cores) // form.instances, 1))


def backbone_of(weights: Path | None = None) -> Backbone:
    """The trivial backbone; its initial weights are the same every time."""
    return specimens.backbone_of(trivial.NAME) if weights is None else load_backbone(trivial.NAME, weights)


def _split(whole: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    return iter(torch.split(whole, list(sizes)))


def _config(form: Form, weights: Path, settings: EngineSettings) -> str:
    batching = "" if form.delay_us is None else f"dynamic_batching {{ max_queue_delay_microseconds: {form.delay_us} }}"
    return CONFIG_FILE.format(
        batch=MAX_BATCH,
        input=INPUT,
        output=OUTPUT,
        size=trivial.SIZE,
        labels=specimens.LABELS,
        instances=form.instances,
        batching=batching,
        weights=weights,
        engine=settings.engine,
        precision=settings.precision,
        threads=settings.threads,
    )
