"""A step in portions: less memory, on a CPU faster; smaller ones when the memory is not enough."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_training.context import Context
from lensmount_training.features import batches

# What torch says where a CPU's allocator fails; there is no class for it.
CPU_WORDS = "can't allocate memory"


class Portions:
    """Runs batches in portions of `size` pictures, halved for good whenever the memory is full."""

    def __init__(self, size: int, context: Context) -> None:
        self.size = size
        self._context = context
        self._told = False

    def run(self, count: int, portion: Callable[[slice], Tensor], reset: Callable[[], object]) -> list[Tensor]:
        """What `portion` gives for each part of `count` pictures; `reset` undoes the parts of an attempt.

        Raises InvalidInputError when one picture alone is too much.
        """
        while True:
            reset()
            try:
                return [portion(own) for own in batches(count, self.size)]
            except RuntimeError as error:
                if not is_memory_full(error):
                    raise
            # Outside of the handler: the error's traceback holds the tensors of the attempt.
            self._halve()

    def _halve(self) -> None:
        if self.size == 1:
            message, fix = "the memory is not enough for one picture", "edit fewer segments: a smaller --last"
            raise InvalidInputError(message, field="micro_batch", value=1, fix=fix)
        self.size = (self.size + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self._told:
            self._told = True
            self._context.progress.say(
                f"The memory is full: steps run in portions of {self.size} pictures from here on, to the same result."
            )


def is_memory_full(error: RuntimeError) -> bool:
    """Whether torch could not get the memory that it wanted, on a GPU or on a CPU."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or CPU_WORDS in str(error)
