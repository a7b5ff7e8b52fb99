"""The model that a Triton hosts: its side of Triton's Python backend.

All tensors cross by DLPack. Triton's stub was built for numpy 1: with numpy 2 beside it, tensors that are made from
arrays arrive empty, in silence. DLPack has no part in that.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import dlpack

from lensmount.errors import IncompatibleError
from lensmount_adapters.backbones import load_backbone
from lensmount_server.engine.opening import open_engine
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.triton.host import Answer, Host
from lensmount_server.triton.wire import HASHES, LOGITS, PACKAGE, PICTURES, REPLY, REQUEST

# Beside model.py.
WEIGHTS = "weights.safetensors"


class Hosted:
    """What model.py delegates to; `backend` is Triton's module `triton_python_backend_utils`."""

    def __init__(self, args: Mapping[str, str], backend: Any) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        self._backend = backend
        self.host = open_host(parameters(args), Path(args["model_repository"]) / args["model_version"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request."""
        return [self._respond(request) for request in requests]

    def close(self) -> None:
        """End the engine."""
        self.host.close()

    def _respond(self, request: Any) -> Any:
        if request.is_cancelled():
            error = self._backend.TritonError("nobody waits for it", self._backend.TritonError.CANCELLED)
            return self._backend.InferenceResponse(error=error)
        data = self._input(request, REQUEST)
        if data is None:
            return self._backend.InferenceResponse(error=self._backend.TritonError(f"the input {REQUEST} is missing"))
        answer = self.host.answer(data.numpy().tobytes(), self._input(request, PICTURES), self._input(request, PACKAGE))
        return self._backend.InferenceResponse(self._outputs(answer))

    def _input(self, request: Any, name: str) -> Tensor | None:
        tensor = self._backend.get_input_tensor_by_name(request, name)
        taken: Tensor | None = None if tensor is None else dlpack.from_dlpack(tensor.to_dlpack())
        return taken

    def _outputs(self, answer: Answer) -> list[Any]:
        reply = torch.frombuffer(bytearray(answer.reply), dtype=torch.uint8)
        named = {REPLY: reply, LOGITS: answer.logits, HASHES: answer.hashes}
        make = self._backend.Tensor.from_dlpack
        return [make(name, tensor) for name, tensor in named.items() if tensor is not None]


def parameters(args: Mapping[str, str]) -> dict[str, str]:
    """The model's parameters in config.pbtxt."""
    config = json.loads(args["model_config"])
    return {name: value["string_value"] for name, value in config["parameters"].items()}


def open_host(told: Mapping[str, str], folder: Path) -> Host:
    """The host as the parameters say; `folder` holds the weights.

    Raises LensmountError, IncompatibleError for weights that are not those that were exported.
    """
    backbone = load_backbone(told["backbone"], folder / WEIGHTS)
    if backbone.fingerprint != told["fingerprint"]:
        message, fix = "these are not the weights that were exported", "export again: lensmount export triton"
        raise IncompatibleError(message, field=WEIGHTS, value=backbone.fingerprint[:12], fix=fix)
    settings = EngineSettings(
        engine=told["engine"],
        precision=told["precision"],
        threads=int(told["threads"]),
        merged_mib=int(told["merged_mib"]),
        device=told["device"],
    )
    return Host(open_engine(backbone, settings))
