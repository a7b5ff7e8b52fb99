"""LoRA on a part of a fused `qkv`: only queries and values, as LoRA itself was proposed (arXiv 2106.09685).

timm computes queries, keys and values with one Linear, its outputs in that order, a third each. One edit of it holds
separate ones exactly: their A above each other, their B as blocks, and zeros for what none of them edits.

         A = | A_q |      B = | B_q  0  |
             | A_v |          |  0   0  |
                              |  0  B_v |

The zeros cost the product with B three times and save the engine, and a package, a second form of edits. For ranks of
8 on ViT-S that is 3 % of the `qkv` product and less than 1 % of a block.
"""

from __future__ import annotations

import torch

from lensmount.errors import InvalidInputError
from lensmount_adapters.lora import LoraDelta

PARTS = ("q", "k", "v")


def fused_qkv(q: LoraDelta | None = None, k: LoraDelta | None = None, v: LoraDelta | None = None) -> LoraDelta:
    """One edit of a fused `qkv` from edits of its parts, A (rank, in) and B (out, rank) each; at least one is given.

    A is (sum of ranks, in), B is (3 · out, sum of ranks) and holds the parts' scales, so the scale is 1: in a package
    `lora_alpha` of this module is its rank. Raises InvalidInputError for parts of different inputs or outputs.
    """
    parts = {name: part for name, part in zip(PARTS, (q, k, v), strict=True) if part is not None}
    out = _same_sides(parts)
    a = torch.cat([part.a for part in parts.values()])
    b, bias = a.new_zeros(3 * out, len(a)), a.new_zeros(3 * out)
    column = 0
    for name, part in parts.items():
        rows, rank = slice(PARTS.index(name) * out, (PARTS.index(name) + 1) * out), len(part.a)
        b[rows, column : column + rank] = part.b * part.scale
        if part.bias is not None:
            bias[rows] = part.bias
        column += rank
    return LoraDelta(a, b, 1.0, None if all(part.bias is None for part in parts.values()) else bias)


def _same_sides(parts: dict[str, LoraDelta]) -> int:
    """The outputs of every part."""
    if not parts:
        raise InvalidInputError("no edit given", field="qkv", fix="give an edit of q, k or v")
    sides = {name: (part.b.shape[0], part.a.shape[1]) for name, part in parts.items()}
    first = next(iter(sides))
    for name, side in sides.items():
        if side != sides[first]:
            message, fix = f"(out, in) {sides[first]} expected, as {first} has", "fuse edits of one attention layer"
            raise InvalidInputError(message, field=name, value=side, fix=fix)
    return sides[first][0]
