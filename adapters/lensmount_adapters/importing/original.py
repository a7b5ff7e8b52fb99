"""The original: what was trained, run by the libraries that it was trained with, in fp32.

Its logits are what a package promises; nothing of them comes from this project's own reading of the adapter. PEFT is
given the tensors and settings of its file, with the modules named one by one: a pattern that somebody wrote is not run.
"""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lensmount.errors import InvalidInputError, MissingExtraError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.importing.names import current
from lensmount_adapters.importing.peft_config import target_modules
from lensmount_adapters.importing.peft_file import PeftFile
from lensmount_adapters.importing.source import Source
from lensmount_adapters.importing.vit import load_vit, quiet
from lensmount_adapters.package import PREFIX

# Normalised rows (n, 3, height, width) to logits (n, labels).
Forward = Callable[[Tensor], Tensor]


def timm_with(backbone: Backbone, tensors: Mapping[str, Tensor], labels: int) -> Forward:
    """Timm's model with a linear classifier of `labels` rows, these tensors in place of its own."""
    model = _classifier_of(backbone, labels)
    model.load_state_dict(dict(tensors), strict=False)
    return _forward(model)


def peft_on_timm(peft: PeftFile, backbone: Backbone, labels: int) -> Forward:
    """PEFT's adapter on timm's model."""
    model = _classifier_of(backbone, labels)
    return _forward(_with_peft(model, peft, lambda name: name))


def vit_checkpoint(source: Source, labels: int) -> Forward:
    """A checkpoint of Hugging Face's, as transformers loads it."""
    with tempfile.TemporaryDirectory(prefix="lensmount-") as scratch:
        return _forward(load_vit(source, labels, Path(scratch)))


def peft_on_vit(peft: PeftFile, base: Source, labels: int) -> Forward:
    """PEFT's adapter on the base model, as transformers loads that."""
    with tempfile.TemporaryDirectory(prefix="lensmount-") as scratch:
        model = load_vit(base, labels, Path(scratch))
    return _forward(_with_peft(model, peft, current))


def _classifier_of(backbone: Backbone, labels: int) -> nn.Module:
    model: Any = copy.deepcopy(backbone.model)
    with torch.random.fork_rng():  # a fresh classifier, which is overwritten, must not move anybody's random state
        model.reset_classifier(labels)
    module: nn.Module = model.eval()
    return module


def _with_peft(model: nn.Module, peft: PeftFile, rename: Callable[[str], str]) -> nn.Module:
    library = _peft()
    with quiet(), torch.random.fork_rng():  # PEFT draws A and B before it gets those of the file
        wrapped: nn.Module = library.get_peft_model(model, _config(library, peft, rename, model))
        result = library.set_peft_model_state_dict(wrapped, _state(peft, rename))
    if result.unexpected_keys:
        name = min(result.unexpected_keys)
        fix = "give the --backbone or the --base that it was trained on"
        raise InvalidInputError("PEFT finds no place for it in the model", field="source", value=name, fix=fix)
    return wrapped.eval()


def _config(library: Any, peft: PeftFile, rename: Callable[[str], str], model: nn.Module) -> Any:
    """PEFT's own settings, patterns included; for modules of other names, ranks and alphas module by module."""
    config = peft.config
    names = [rename(name) for name in peft.modules]
    ranks: dict[str, Any] = dict(config.rank_pattern)
    alphas: dict[str, Any] = dict(config.alpha_pattern)
    if names != list(peft.modules):
        ranks = {f"^{re.escape(rename(name))}": config.rank(name) for name in peft.modules}
        alphas = {f"^{re.escape(rename(name))}": config.alpha(name) for name in peft.modules}
    return library.LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        lora_bias=config.lora_bias,
        bias=config.bias,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        target_modules=target_modules(names, (name for name, _ in model.named_modules())),
        modules_to_save=list(peft.saved) or None,
        inference_mode=True,
    )


def _state(peft: PeftFile, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """The tensors as PEFT saves them."""
    state: dict[str, Tensor] = {}
    for name, own in peft.modules.items():
        path = f"{PREFIX}{rename(name)}"
        state[f"{path}.lora_A.weight"], state[f"{path}.lora_B.weight"] = own.a, own.b
        if own.b_bias is not None:
            state[f"{path}.lora_B.bias"] = own.b_bias
        if own.lengths is not None:
            state[f"{path}.lora_magnitude_vector"] = own.lengths
    for name, tensor in peft.tensors.items():
        module, _, what = name.rpartition(".")
        within = f"{module}.base_layer.{what}" if module in peft.modules else name
        state[f"{PREFIX}{rename(within)}"] = tensor
    return state


def _forward(model: nn.Module) -> Forward:
    @torch.inference_mode()
    def forward(rows: Tensor) -> Tensor:
        answer: Any = model(rows)
        logits: Tensor = answer if isinstance(answer, Tensor) else answer.logits
        return logits.float().clone()

    return forward


def _peft() -> Any:
    try:
        import peft as library  # noqa: PLC0415 - an extra
    except ImportError as error:
        fix = "pip install 'lensmount[training]'"
        raise MissingExtraError("adapters of PEFT need peft", field="source", fix=fix) from error
    return library
