"""A backbone that computes next to nothing, so that what surrounds the engine is measured.

Processes that shall know it import this module; `python -m lensmount_server.bench.wire.trivial` is `lensmount` with it.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

from lensmount.cli import main

NAME = "lensmount_wire_vit"
SIZE = 224

# timm looks for this name in the module of a model.
default_cfgs = generate_default_cfgs(
    {
        NAME: {
            "input_size": (3, SIZE, SIZE),
            "num_classes": 0,
            "fixed_input_size": True,
            "crop_pct": 1.0,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
    }
)


@register_model  # type: ignore[untyped-decorator] # timm has no types
def lensmount_wire_vit(pretrained: bool = False, **options: Any) -> Any:
    """A vision transformer of one block over 16 patches."""
    form = {"img_size": SIZE, "patch_size": 56, "embed_dim": 16, "depth": 1, "num_heads": 1, "mlp_ratio": 1.0}
    return build_model_with_cfg(VisionTransformer, NAME, pretrained, **form, **options)


if __name__ == "__main__":
    main()
