"""LoRA (arXiv 2106.09685) as PEFT stores it: low-rank A and B per edited module.

The arithmetic and the scaling follow PEFT, rsLoRA (arXiv 2312.03732) and its per-module
patterns included, so that a package means the same here and there.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from lensmount.errors import InvalidInputError

MAX_RANK = 256

# Settings of PEFT that change the forward pass in ways that the engine does not compute.
UNSUPPORTED = (
    "use_dora", "lora_bias", "use_qalora", "alora_invocation_tokens", "arrow_config", "target_parameters",
    "trainable_token_indices", "megatron_config", "layer_replication", "fan_in_fan_out",
)  # fmt: skip


class LoraConfig(BaseModel):
    """What the server needs of PEFT's `adapter_config.json`; the rest is read and left alone."""

    model_config = ConfigDict(frozen=True, extra="allow")

    peft_type: str
    r: int = Field(ge=1, le=MAX_RANK)
    lora_alpha: float = Field(gt=0)
    use_rslora: bool = False
    bias: str = "none"
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}

    def check_supported(self) -> None:
        """Raise InvalidInputError for a PEFT setting that would be answered wrongly."""
        if self.peft_type != "LORA":
            raise _unsupported("peft_type", self.peft_type, "train a LoRA adapter")
        if self.bias != "none":
            raise _unsupported("bias", self.bias, 'train with bias="none"')
        extra: dict[str, Any] = self.model_extra or {}
        for name in UNSUPPORTED:
            if extra.get(name):
                raise _unsupported(name, extra[name], f"train without {name}")

    def rank(self, module: str) -> int:
        """The rank of one module's A and B."""
        return int(_pattern(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """What B·A·x is multiplied with: alpha / r, or alpha / sqrt(r) for rsLoRA."""
        alpha, rank = _pattern(self.alpha_pattern, module, self.lora_alpha), self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


@dataclass(frozen=True, eq=False)
class LoraDelta:
    """A (rank, in, …), B (out, rank, …) and their scale, for one Linear or Conv2d."""

    a: Tensor
    b: Tensor
    scale: float

    def of(self, module: nn.Module, x: Tensor) -> Tensor:
        """What this edit adds to `module(x)`."""
        if isinstance(module, nn.Conv2d):
            low = F.conv2d(x, self.a, None, module.stride, module.padding, module.dilation)
            return F.conv2d(low, self.b) * self.scale
        return F.linear(F.linear(x, self.a), self.b) * self.scale


def check_delta(name: str, module: nn.Module, delta: LoraDelta, rank: int) -> None:
    """Raise InvalidInputError unless A and B fit the module and the configured rank."""
    if isinstance(module, nn.Conv2d):
        if module.groups != 1 or module.padding_mode != "zeros":
            raise InvalidInputError("LoRA on a grouped convolution is not supported", field=name, value=module.groups)
        wanted_a: tuple[int, ...] = (rank, module.in_channels, *module.kernel_size)
        wanted_b: tuple[int, ...] = (module.out_channels, rank, 1, 1)
    elif isinstance(module, nn.Linear):
        wanted_a, wanted_b = (rank, module.in_features), (module.out_features, rank)
    else:
        raise InvalidInputError("LoRA edits Linear and Conv2d only", field=name, value=type(module).__name__)
    for side, tensor, shape in (("lora_A", delta.a, wanted_a), ("lora_B", delta.b, wanted_b)):
        if tuple(tensor.shape) != shape:
            message = f"shape {shape} expected"
            fix = "train the adapter on this backbone, with the rank of adapter_config.json"
            raise InvalidInputError(message, field=f"{name}.{side}", value=tuple(tensor.shape), fix=fix)


def _pattern(patterns: dict[str, Any], module: str, default: float) -> float:
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return float(value)
    return default


def _unsupported(name: str, value: object, fix: str) -> InvalidInputError:
    return InvalidInputError("PEFT setting not supported", field=f"adapter_config.json: {name}", value=value, fix=fix)
