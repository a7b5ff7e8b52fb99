"""A Hugging Face ViT beside timm's: are they the same model, and how transformers itself runs it.

timm computes layer norms with an epsilon of 1e-6, Hugging Face with 1e-12 by default; both use the exact GELU, and the
class token behind the last norm. What is not the same model to the last detail shows in the logits, which are compared
at the end of an import.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lensmount.errors import IncompatibleError, InvalidInputError, MissingExtraError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.importing.names import CLASSIFIER, state_in_timm
from lensmount_adapters.importing.source import SETTINGS_FILE, WEIGHTS_FILES, Source

# Copies of one model agree to the bit; one that went through another format by less than this of its largest weight.
TOLERANCE = 1e-5
MAX_EPSILON = 1e-5
# What a config leaves out is as ViTConfig has it.
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
}
FIX_BASE = (
    "give --backbone and --weights of the model that it was trained on, or --save-weights to make them of the base"
)


def base_in_timm(base: Source) -> dict[str, Tensor]:
    """The base model's weights by timm's names, without a classifier."""
    state = state_in_timm("base", base.tensors, CLASSIFIER)
    return {name: own for name, own in state.items() if not name.startswith(f"{CLASSIFIER}.")}


def check_same_base(base: Source, backbone: Backbone) -> float:
    """The largest difference of a weight, relative to the largest of its tensor; 0 for the same to the bit.

    Raises IncompatibleError unless both are one model.
    """
    theirs, largest = base_in_timm(base), 0.0
    for name, own in backbone.model.state_dict().items():
        if name not in theirs or theirs[name].shape != own.shape:
            got = tuple(theirs[name].shape) if name in theirs else "missing"
            message = f"the base is another model than {backbone.name}: {tuple(own.shape)} expected"
            raise IncompatibleError(message, field=f"base: {name}", value=got, fix=FIX_BASE)
        scale = max(float(own.abs().max()), 1e-12)
        difference = float((theirs[name] - own.cpu()).abs().max()) / scale
        if difference > TOLERANCE:
            message = f"the base has other weights than {backbone.name}"
            raise IncompatibleError(message, field=f"base: {name}", value=f"{difference:.2g} apart", fix=FIX_BASE)
        largest = max(largest, difference)
    return largest


def check_settings(settings: Mapping[str, Any], backbone: Backbone) -> None:
    """Raise IncompatibleError unless the config of a Hugging Face ViT describes what timm's model computes."""
    model: Any = backbone.model
    if not isinstance(model, VisionTransformer):
        message = "the source is a ViT"
        raise IncompatibleError(message, field="backbone", value=backbone.name, fix=FIX_BASE)
    block: Any = model.blocks[0]
    wanted = {
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "patch_size": model.patch_embed.patch_size[0],
        "image_size": model.patch_embed.img_size[0],
        "hidden_act": "gelu",
    }
    given = {**DEFAULTS, **settings}
    for name, own in wanted.items():
        if given[name] not in (own, [own, own]):
            message = f"{backbone.name} has {own}"
            raise IncompatibleError(message, field=f"{SETTINGS_FILE}: {name}", value=given[name], fix=FIX_BASE)
    epsilon = given["layer_norm_eps"]
    if not isinstance(epsilon, float) or not 0 <= epsilon <= MAX_EPSILON:
        fix = "import a model with the usual layer norm"
        message = f"at most {MAX_EPSILON} expected"
        raise InvalidInputError(message, field=f"{SETTINGS_FILE}: layer_norm_eps", value=epsilon, fix=fix)


@contextmanager
def quiet() -> Iterator[None]:
    """Neither progress bars nor remarks of transformers and PEFT: what counts is compared at the end."""
    logging = transformers().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_vit(source: Source, labels: int, scratch: Path) -> nn.Module:
    """Transformers' own ViTForImageClassification with these weights, in fp32; a classifier of `labels` rows.

    `scratch` is an empty folder. The settings must have been checked against a backbone: they decide how large it is.
    """
    library = transformers()
    given = {name: source.settings.get(name, default) for name, default in DEFAULTS.items()}
    with quiet():
        library.ViTConfig(**given, num_labels=labels, architectures=["ViTForImageClassification"]).save_pretrained(
            scratch
        )
        save_file(dict(source.tensors), scratch / WEIGHTS_FILES[0], {"format": "pt"})
        model: nn.Module = library.ViTForImageClassification.from_pretrained(
            scratch, ignore_mismatched_sizes=True, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    return model.eval().requires_grad_(requires_grad=False)


def transformers() -> Any:
    """The library; raises MissingExtraError without it."""
    try:
        import transformers as library  # noqa: PLC0415 - an extra
    except ImportError as error:
        fix = "pip install 'lensmount[training]'"
        raise MissingExtraError("models of Hugging Face need transformers", field="source", fix=fix) from error
    return library
