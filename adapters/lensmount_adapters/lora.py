"""LoRA (arXiv 2106.09685) as PEFT stores it: low-rank A and B per edited module.

The arithmetic and the scaling follow PEFT, rsLoRA (arXiv 2312.03732) and its per-module
patterns included, so that a package means the same here and there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from lensmount.errors import InvalidInputError

MAX_RANK = 256
MAX_PATTERNS = 1000

# Settings of PEFT that change the forward pass in ways that the engine does not compute.
UNSUPPORTED = (
    "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config",
    "target_parameters", "trainable_token_indices", "megatron_config", "layer_replication", "fan_in_fan_out",
)  # fmt: skip
# Initialisations that move a part of the base weights into A and B: wrong on the backbone as it is.
MOVING_INITIALISATIONS = ("pissa", "olora", "corda", "loftq", "lora_ga")

# PEFT takes any regular expression here. One without repetition can not be made to run for ever.
Pattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.^$|\\]{1,500}$")]
Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
Alpha = Annotated[float, Field(gt=0)]


class LoraConfig(BaseModel):
    """What the server needs of PEFT's `adapter_config.json`; the rest is read and left alone."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    peft_type: str
    r: Rank
    lora_alpha: Alpha
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    bias: Literal["none", "lora_only", "all"] = "none"
    rank_pattern: dict[Pattern, Rank] = Field(default={}, max_length=MAX_PATTERNS)
    alpha_pattern: dict[Pattern, Alpha] = Field(default={}, max_length=MAX_PATTERNS)

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _patterns_compile(cls, patterns: dict[str, float]) -> dict[str, float]:
        for key in patterns:
            try:
                _compiled(key)
            except re.error as error:
                raise ValueError(f"{key} is not a regular expression: {error}") from error
        return patterns

    def check_supported(self) -> None:
        """Raise InvalidInputError for a PEFT setting that would be answered wrongly."""
        if self.peft_type != "LORA":
            raise _unsupported("peft_type", self.peft_type, "train a LoRA adapter")
        if self.use_dora and self.lora_bias:
            raise _unsupported("lora_bias", "true with use_dora", "train without lora_bias, as PEFT itself demands")
        extra: dict[str, Any] = self.model_extra or {}
        for name in UNSUPPORTED:
            if extra.get(name):
                raise _unsupported(name, "", f"train without {name}")
        start = str(extra.get("init_lora_weights", ""))
        if start.startswith(MOVING_INITIALISATIONS):
            raise _unsupported("init_lora_weights", start, "train with init_lora_weights=true")

    def rank(self, module: str) -> int:
        """The rank of one module's A and B."""
        return int(_pattern(self.rank_pattern, module, self.r))

    def alpha(self, module: str) -> float:
        """The alpha of one module, before anything is divided by its rank."""
        return _pattern(self.alpha_pattern, module, self.lora_alpha)

    def scale(self, module: str) -> float:
        """What B·A·x is multiplied with: alpha / r, or alpha / sqrt(r) for rsLoRA."""
        alpha, rank = self.alpha(module), self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


@dataclass(frozen=True, eq=False)
class LoraDelta:
    """A (rank, in, …), B (out, rank, …) and their scale, for one Linear or Conv2d.

    `bias` (out,) is added to the output as it is, where the adapter has one: what PEFT scales is scaled.
    """

    a: Tensor
    b: Tensor
    scale: float
    bias: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """A, B and, where there is one, the bias."""
        return (self.a, self.b) if self.bias is None else (self.a, self.b, self.bias)

    def to(self, where: torch.device | torch.dtype) -> LoraDelta:
        """The same edit on a device, or in a precision."""
        return LoraDelta(
            self.a.to(where), self.b.to(where), self.scale, None if self.bias is None else self.bias.to(where)
        )

    def of(self, module: nn.Module, x: Tensor) -> Tensor:
        """What this edit adds to `module(x)`."""
        if isinstance(module, nn.Conv2d):
            low = F.conv2d(x, self.a, None, module.stride, module.padding, module.dilation)
            return F.conv2d(low * self.scale, self.b, self.bias)
        return F.linear(F.linear(x, self.a) * self.scale, self.b, self.bias)

    def merged_into(self, weight: Tensor) -> Tensor:
        """The module's weight with this edit added: what A and B add to the output, once and for all."""
        a, b = self.a.to(weight.dtype), self.b.to(weight.dtype)
        return weight + (b.flatten(1) @ a.flatten(1)).reshape(weight.shape) * self.scale


def merged(model: nn.Module, deltas: Mapping[str, LoraDelta]) -> dict[str, Tensor]:
    """The weights and biases of `model` that these edits of its modules change, by name, with the edits added."""
    tensors: dict[str, Tensor] = {}
    for name, delta in deltas.items():
        tensors[f"{name}.weight"] = delta.merged_into(model.get_parameter(f"{name}.weight").detach())
        if delta.bias is not None:
            own = model.get_parameter(f"{name}.bias").detach()
            tensors[f"{name}.bias"] = own + delta.bias.to(own.dtype)
    return tensors


def delta_shapes(field: str, module: nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of A and B at this rank; raises InvalidInputError for a module that LoRA can not edit here."""
    if isinstance(module, nn.Conv2d):
        if module.groups != 1 or module.padding_mode != "zeros":
            message, fix = "LoRA on a grouped convolution is not supported", f"train without {field} in target_modules"
            raise InvalidInputError(message, field=field, value=f"{module.groups} groups", fix=fix)
        return (rank, module.in_channels, *module.kernel_size), (module.out_channels, rank, 1, 1)
    if isinstance(module, nn.Linear):
        return (rank, module.in_features), (module.out_features, rank)
    fix = f"train without {field} in target_modules"
    raise InvalidInputError("LoRA edits Linear and Conv2d only", field=field, value=type(module).__name__, fix=fix)


def _pattern(patterns: dict[str, Any], module: str, default: float) -> float:
    for key, value in patterns.items():
        if _compiled(key).match(module):
            return float(value)
    return default


@lru_cache(maxsize=2 * MAX_PATTERNS)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def _unsupported(name: str, value: object, fix: str) -> InvalidInputError:
    return InvalidInputError("PEFT setting not supported", field=f"adapter_config.json: {name}", value=value, fix=fix)
