"""Which backbone to take where nobody says.

EfficientNet-B4 is the usual middle between accuracy and cost on pictures of parts and scenes. Where its weights can
not be had, the small one that comes with pip stands in.
"""

from __future__ import annotations

from dataclasses import dataclass

from lensmount_adapters.backbones.weights import cached_weights, hub_answers

AUTO = "auto"
USUAL, BUNDLED = "efficientnet_b4", "tf_efficientnet_lite0"


@dataclass(frozen=True)
class DefaultBackbone:
    """timm's name of a backbone, and why this one."""

    name: str
    reason: str


def default_backbone() -> DefaultBackbone:
    """`USUAL` where its weights are here or can be fetched, else `BUNDLED`."""
    if cached_weights(USUAL).is_file():
        return DefaultBackbone(USUAL, "the usual choice; its weights are on this machine")
    if hub_answers():
        return DefaultBackbone(USUAL, "the usual choice; its weights are fetched once")
    reason = f"it came with pip; the weights of {USUAL} can not be fetched from here"
    return DefaultBackbone(BUNDLED, reason)
