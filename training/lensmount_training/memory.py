"""Work in portions: less memory, on a CPU faster; smaller ones when the memory is not enough."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError

T = TypeVar("T")

# On a CPU small batches stay in the cache; 8 was faster than 32.
BATCH = 8
# What torch, oneDNN and the C++ library say where a CPU's memory is full; torch has no class for it. oneDNN's word on a
# descriptor is another: it knows no such primitive.
CPU_WORDS = re.compile(
    r"can't allocate memory|not enough memory|std::bad_alloc|could not create a primitive(?! descriptor)"
)


@dataclass(frozen=True)
class Work:
    """What runs in portions, what is wrong when one picture is too much, and what to do about it."""

    name: str
    field: str
    fix: str


STEPS = Work("steps", "micro_batch", "edit fewer segments: a smaller --last")
PASSES = Work("passes through the backbone", "backbone", "close other programs, or take a smaller backbone")


def batches(count: int, size: int = BATCH) -> Iterator[slice]:
    """Slices of at most `size` that cover `count` rows."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _nobody(text: str) -> None:
    """Nobody is told."""


class Portions:
    """Runs batches in portions of `size` pictures, halved for good whenever the memory is full; `say` is told once."""

    def __init__(self, size: int = BATCH, work: Work = PASSES, say: Callable[[str], None] = _nobody) -> None:
        self.size = size
        self._work = work
        self._say = say
        self._told = False

    def run(self, count: int, portion: Callable[[slice], Tensor], reset: Callable[[], object]) -> list[Tensor]:
        """What `portion` gives for each part of `count` pictures, all of one size; `reset` undoes those of an attempt.

        Raises InvalidInputError when one picture alone is too much.
        """
        while True:
            reset()
            done = _attempted(lambda: [portion(own) for own in batches(count, self.size)])
            if done is not None:
                return done
            self._halve()

    def walk(self, count: int, portion: Callable[[slice], T]) -> Iterator[T]:
        """What `portion`, never None, gives for each part of `count` pictures; a part that is too much is parted again.

        Raises InvalidInputError when one picture alone is too much.
        """
        start = 0
        while start < count:
            own = slice(start, min(start + self.size, count))
            done = _attempted(partial(portion, own))
            if done is None:
                self._halve()
                continue
            yield done
            start = own.stop

    def _halve(self) -> None:
        if self.size == 1:
            message = "the memory is not enough for one picture"
            raise InvalidInputError(message, field=self._work.field, value=1, fix=self._work.fix)
        self.size = (self.size + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self._told:
            self._told = True
            self._say(
                f"The memory is full: {self._work.name} run in portions of {self.size} pictures from here on, "
                "to the same result."
            )


def _attempted(work: Callable[[], T]) -> T | None:
    """What the work gives; None where the memory is full, behind the error, whose traceback holds the tensors."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_memory_full(error):
            raise
    return None


def is_memory_full(error: BaseException) -> bool:
    """Whether there was not the memory that was wanted, on a GPU or on a CPU."""
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or bool(CPU_WORDS.search(str(error)))
