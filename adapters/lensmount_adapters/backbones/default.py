"""Which backbone to take where nobody says.

EfficientNet-B4 is the usual middle between accuracy and cost on pictures of parts and scenes. Where its weights can
not be had, the small one that comes with pip stands in.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from huggingface_hub import constants

from lensmount_adapters.backbones.weights import cached_weights

AUTO = "auto"
USUAL, BUNDLED = "efficientnet_b4", "tf_efficientnet_lite0"
PATIENCE_S = 3.0


@dataclass(frozen=True)
class DefaultBackbone:
    """timm's name of a backbone, and why this one."""

    name: str
    reason: str


def default_backbone() -> DefaultBackbone:
    """`USUAL` where its weights are here or can be fetched, else `BUNDLED`."""
    if cached_weights(USUAL).is_file():
        return DefaultBackbone(USUAL, "the usual choice; its weights are on this machine")
    if _hub_answers():
        return DefaultBackbone(USUAL, "the usual choice; its weights are fetched once")
    reason = f"it came with pip; the weights of {USUAL} can not be fetched from here"
    return DefaultBackbone(BUNDLED, reason)


def _hub_answers() -> bool:
    """Whether the hub can be reached: asked once and shortly, where a download would try again for a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    place = urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((place.hostname or "", place.port or 443), timeout=PATIENCE_S):
            return True
    except OSError:
        return False
