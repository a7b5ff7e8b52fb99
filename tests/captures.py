"""What stands in for CUDA's graphs where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lensmount_server.engine.cuda.graphs import Captured


class Recorded:
    """Captures by keeping the function: `replay` runs it on what lies in the static input.

    `sizes` are the frames of each capture, in order.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, function: Callable[[Tensor], Tensor], inputs: Tensor) -> Captured:
        """Run it once for the static output."""
        self.sizes.append(len(inputs))
        outputs = function(inputs)

        def replay() -> None:
            outputs.copy_(function(inputs))

        return Captured(inputs, outputs, replay)


def refuse(_: Callable[[Tensor], Tensor], __: Tensor) -> Captured:
    """A capture that fails as CUDA's does."""
    raise RuntimeError("operation not permitted when stream is capturing")
