"""Hugging Face's ViT with a timm ViT's weights, and adapters that PEFT trains on it; names written out on their own."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from lensmount_adapters.backbones import Backbone

OLD_NAMES = {
    r"vit\.layers\.(\d+)": r"vit.encoder.layer.\1",
    r"attention\.q_proj": "attention.attention.query",
    r"attention\.k_proj": "attention.attention.key",
    r"attention\.v_proj": "attention.attention.value",
    r"attention\.o_proj": "attention.output.dense",
    r"mlp\.fc1": "intermediate.dense",
    r"mlp\.fc2": "output.dense",
}
LAYERS = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj"}


def twin(backbone: Backbone, labels: int = 3, seed: int = 0, **settings: Any) -> nn.Module:
    """transformers' ViTForImageClassification with the weights of a timm ViT and a random classifier."""
    model: Any = backbone.model
    config = ViTConfig(
        hidden_size=model.embed_dim,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=model.blocks[0].attn.num_heads,
        intermediate_size=model.blocks[0].mlp.fc1.out_features,
        image_size=model.patch_embed.img_size[0],
        patch_size=model.patch_embed.patch_size[0],
        id2label={i: f"kind-{i}" for i in range(labels)},
        **settings,
    )
    torch.manual_seed(seed)
    made: nn.Module = ViTForImageClassification(config).eval()
    nn.init.normal_(made.get_parameter("classifier.weight"), std=0.3)
    nn.init.normal_(made.get_parameter("classifier.bias"), std=0.3)
    made.load_state_dict(theirs(backbone.model.state_dict()), strict=False)
    return made


def theirs(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's weights by the names of transformers 5, q, k and v apart."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if block := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name):
            number, inner, kind = block.groups()
            if inner == "attn.qkv":
                third = len(tensor) // 3
                for i, part in enumerate("qkv"):
                    key = f"vit.layers.{number}.attention.{part}_proj.{kind}"
                    found[key] = tensor[i * third : (i + 1) * third].clone()
            else:
                found[f"vit.layers.{number}.{LAYERS.get(inner, inner)}.{kind}"] = tensor
        elif name.startswith("norm."):
            found[f"vit.layer{name}"] = tensor
        elif name.startswith("patch_embed."):
            found[f"vit.embeddings.patch_embeddings.projection.{name.rpartition('.')[2]}"] = tensor
        else:
            found[
                {"cls_token": "vit.embeddings.cls_token", "pos_embed": "vit.embeddings.position_embeddings"}[name]
            ] = tensor
    return found


def save(model: Any, folder: Path) -> Path:
    """What transformers itself saves of a model."""
    with still():
        model.save_pretrained(folder)
    return folder


def tune(model: nn.Module, folder: Path, targets: Sequence[str], *, seed: int = 0, **options: Any) -> nn.Module:
    """Let PEFT make an adapter of the model, all that it trains random; saves it and returns PEFT's model."""
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 6, "target_modules": list(targets), "modules_to_save": ["classifier"], **options}
    )
    with still():
        peft: Any = get_peft_model(model, config).eval()
    random = torch.Generator().manual_seed(seed)
    for name, parameter in peft.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= 0.5 + torch.rand(parameter.shape, generator=random)
        elif "lora_" in name or "modules_to_save" in name:
            parameter.data = torch.randn(parameter.shape, generator=random) * 0.2
        elif parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=random)
    with still():
        peft.save_pretrained(folder)
    made: nn.Module = peft
    return made


def rewrite(folder: Path, names: Mapping[str, str], file: str = "adapter_model.safetensors") -> None:
    """Replace expressions in the names of a file's tensors, and in the config of an adapter beside it."""

    def renamed(name: str) -> str:
        for pattern, new in names.items():
            name = re.sub(pattern, new, name)
        return name

    save_file(
        {renamed(name): tensor for name, tensor in load_file(folder / file).items()}, folder / file, {"format": "pt"}
    )
    config = folder / "adapter_config.json"
    if config.is_file():
        settings = json.loads(config.read_text())
        settings["target_modules"] = [renamed(name) for name in settings["target_modules"]]
        for field in ("rank_pattern", "alpha_pattern"):
            settings[field] = {renamed(name): value for name, value in settings[field].items()}
        config.write_text(json.dumps(settings))


def logits_of(model: nn.Module, rows: Tensor) -> Tensor:
    """What a model of transformers' or timm's answers to normalised rows."""
    with torch.inference_mode():
        answer: Any = model(rows)
        logits: Tensor = answer if isinstance(answer, Tensor) else answer.logits
        return logits.clone()


@contextmanager
def still() -> Iterator[None]:
    """Without transformers' and PEFT's remarks."""
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
