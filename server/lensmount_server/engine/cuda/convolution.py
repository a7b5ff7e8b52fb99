"""LoRA on convolutions: one of size 1 is the kernel's matrix product, any other runs as grouped torch operations."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from lensmount_server.engine.cuda.kernel import edited_linear
from lensmount_server.engine.cuda.stack import Stack
from lensmount_server.engine.cuda.tiles import Runs, check_shares, edited_rows


def edited_conv(module: nn.Conv2d, plain: Callable[[Tensor], Tensor], x: Tensor, stack: Stack, runs: Runs) -> Tensor:
    """`plain(x)`, the module's own forward, with every run's own edit added; x (rows, in, height, width).

    Raises ServerError when dimension 0 can not be shared out among the rows.
    """
    if is_pointwise(module):
        return _pointwise(module, x, stack, runs)
    check_shares(runs, x.shape[0])
    y = plain(x)
    rows, slots = edited_rows(runs, x.shape[0], x.device)
    return y.index_add_(0, rows, _grouped(module, x.index_select(0, rows), stack, slots))


def is_pointwise(module: nn.Conv2d) -> bool:
    """Whether the convolution is a matrix product of every pixel: size 1, one group, nothing padded."""
    return module.kernel_size == (1, 1) and module.groups == 1 and module.padding in ((0, 0), "same", "valid")


def _pointwise(module: nn.Conv2d, x: Tensor, stack: Stack, runs: Runs) -> Tensor:
    """Pixels become lines; with channels last that moves nothing, and the result has channels last too."""
    down, across = module.stride
    pixels = x[:, :, ::down, ::across].permute(0, 2, 3, 1)
    y = edited_linear(pixels, module.weight.flatten(1), module.bias, stack, runs)
    return y.permute(0, 3, 1, 2)


def _grouped(module: nn.Conv2d, x: Tensor, stack: Stack, slots: Tensor) -> Tensor:
    """What the slots add to their rows: a convolution with a group for each row, then one batched product."""
    rows, channels, height, width = x.shape
    a = stack.a.index_select(0, slots).view(rows * stack.rank, channels, *module.kernel_size)
    grouped = x.reshape(1, rows * channels, height, width)
    low = F.conv2d(grouped, a, None, module.stride, module.padding, module.dilation, groups=rows)
    b = stack.b.index_select(0, slots) * stack.scale.index_select(0, slots)[:, None, None]
    delta = b.to(low.dtype).bmm(low.reshape(rows, stack.rank, -1))
    return delta.view(rows, -1, *low.shape[2:]) + stack.bias.index_select(0, slots)[:, :, None, None]
