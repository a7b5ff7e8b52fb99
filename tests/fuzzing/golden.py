"""Mutations of golden pictures and logits, in files that are whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from fuzzing.tensors import Item, items, whole

Files = dict[str, bytes]

FILE = "golden.safetensors"
SIZES = ((0, 3), (3, 0), (1, 1), (1, 2), (1, 16_384), (16_385, 1), (2, 20_000), (7, 500), (300, 200), (31, 33))


def _change(files: Files, change: Callable[[list[Item]], object]) -> None:
    parts = items(files.get(FILE, b""))
    if parts:
        change(parts)
        files[FILE] = whole(parts)


def _picture(name: str, height: int, width: int, channels: int = 3) -> Item:
    return Item(name, "U8", (height, width, channels), bytes(height * width * channels))


def size(random: Random, files: Files) -> None:
    """A picture of an odd size."""
    height, width = random.choice(SIZES)
    channels = random.choice((3, 3, 3, 1, 4, 0))
    _change(files, lambda parts: parts.__setitem__(-1, _picture(parts[-1].name, height, width, channels)))


def large(random: Random, files: Files) -> None:
    """Pictures of many megabytes, up to and beyond the file's limit."""
    side = random.choice((2000, 3000, 4800))
    _change(files, lambda parts: parts.__setitem__(-1, _picture(parts[-1].name, side, side)))


def count(random: Random, files: Files) -> None:
    """None, few or too many pictures, with logits that follow or not."""
    pictures = random.choice((0, 1, 15, 16, 17, 100))
    rows = random.choice((pictures, 2))

    def change(parts: list[Item]) -> None:
        labels = 3
        parts[:] = [_picture(f"picture.{index:02d}", 5, 5) for index in range(pictures)]
        parts.append(Item("logits", "F32", (rows, labels), bytes(4 * rows * labels)))

    _change(files, change)


def order(random: Random, files: Files) -> None:
    """Names that sort otherwise, twice the logits, pictures called logits."""
    names = random.choice((("logits", "logitz"), ("b", "a"), ("picture.00", ""), ("\0", "logits"), ("z", "é")))

    def change(parts: list[Item]) -> None:
        for at, name in zip(range(len(parts)), names, strict=False):
            parts[at] = replace(parts[at], name=name)

    _change(files, change)


MUTATORS: dict[str, Callable[[Random, Files], None]] = {
    "picture size": size,
    "large picture": large,
    "picture count": count,
    "picture names": order,
}
