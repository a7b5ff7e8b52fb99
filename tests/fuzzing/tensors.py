"""Mutations of safetensors files: headers that lie, and files that are whole and hold the wrong tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from random import Random
from typing import Any

Files = dict[str, bytes]

FILES = ("adapter_model.safetensors", "adapter_model.safetensors", "golden.safetensors")
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
"F8_E4M3": 1,
         "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8, "C64": 8}  # fmt: skip
WORDS = (*BYTES, "F4", "F6_E2M3", "F8_E8M0", "f32", "F32 ", "", "float32", "Q4_K", "X")
SIDES = (0, 1, 2, 3, 64, 192, 2**16, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -1, 1.5, "3", None)
NAMES = (
    "", "\0", "base_model.model.", "base_model.model", "model.x", "../../x", "/etc/passwd", "__metadata__", "é",
    "e\u0301", "\u202e",
    "🎥", "a" * 100_000, "base_model.model.head.weight", "base_model.model.blocks.5.attn.qkv.lora_A.weight",
    "logits", "picture.00",
    "picture.99", "base_model.model.head.modules_to_save.bias", "base_model.model.head.original_module.bias",
    "base_model.model.blocks.5.attn.qkv.lora_magnitude_vector", "base_model.model.norm.bias", "base_model.model.\n",
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """A tensor of a file that is whole."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def split(data: bytes) -> tuple[Any, bytes]:
    """Header and body; ({}, data) where another mutation was here."""
    if len(data) < 8:
        return {}, data
    (length,) = struct.unpack("<Q", data[:8])
    try:
        header = json.loads(data[8 : 8 + length]) if length < len(data) else {}
    except (ValueError, RecursionError):
        header = {}
    return (header if isinstance(header, dict) else {}), data[8 + length :]


def join(header: bytes, body: bytes) -> bytes:
    """A file with this header."""
    return struct.pack("<Q", len(header)) + header + body


def items(data: bytes) -> list[Item]:
    """The tensors of a file; none where another mutation was here."""
    header, body = split(data)
    found = []
    for name, entry in header.items():
        match entry:
            case {"dtype": str(dtype), "shape": list(sides), "data_offsets": [int(start), int(end)]}:
                if all(isinstance(side, int) and 0 <= side < 2**16 for side in sides):
                    found.append(Item(name, dtype, tuple(sides), body[start:end]))
    return found


def whole(parts: list[Item]) -> bytes:
    """A file of these tensors, as safetensors itself writes it."""
    header, at = {}, 0
    for item in parts:
        header[item.name] = {"dtype": item.dtype, "shape": item.shape, "data_offsets": [at, at + len(item.data)]}
        at += len(item.data)
    text = json.dumps(header).encode()
    return join(text + b" " * (-len(text) % 8), b"".join(item.data for item in parts))


def _in_header(random: Random, files: Files, change: Callable[[Any, str], object]) -> None:
    """Change one entry of a header; its body stays."""
    file = random.choice(FILES)
    header, body = split(files.get(file, b""))
    entries = [name for name, entry in header.items() if isinstance(entry, dict)]
    if entries:
        change(header, random.choice(entries))
        files[file] = join(json.dumps(header).encode(), body)


def _in_items(random: Random, files: Files, change: Callable[[list[Item], int], object]) -> None:
    """Change one tensor of a file; what comes of it is whole."""
    file = random.choice(FILES)
    parts = items(files.get(file, b""))
    if parts:
        change(parts, random.randrange(len(parts)))
        files[file] = whole(parts)


def header_length(random: Random, files: Files) -> None:
    """Another length before the header."""
    file = random.choice(FILES)
    data = files.get(file, b"") + bytes(8)
    (length,) = struct.unpack("<Q", data[:8])
    lengths = (
        0,
        1,
        2,
        length - 1,
        length + 1,
        length + 8,
        len(data),
        len(data) - 8,
        1 << 20,
        2**31,
        2**32,
        2**63,
        2**64 - 1,
    )
    files[file] = struct.pack("<Q", random.choice(lengths) % 2**64) + data[8:]


def offsets(random: Random, files: Files) -> None:
    """Offsets that overlap, leave gaps, run backwards or out of the file."""

    def change(header: Any, name: str) -> None:
        match header[name].get("data_offsets"):
            case [int(start), int(end)]:
                pass
            case _:
                start, end = 0, 0
        step = random.choice((1, 4, 8, end - start, -1, -4))
        header[name]["data_offsets"] = random.choice(
            ([start + step, end + step], [start, end + step], [end, start], [0, end], [start, 2**64 - 1], [2**63,
            2**63],
             [-1, end], [start], [start, end, end], [], None, [start, 1e30], ["0", "4"], [0, 0], [start, start])
        )  # fmt: skip

    _in_header(random, files, change)


def type_word(random: Random, files: Files) -> None:
    """Another type in the header only."""
    _in_header(random, files, lambda header, name: header[name].update(dtype=random.choice((*WORDS, None, 3, ["F32"]))))


def shape(random: Random, files: Files) -> None:
    """Another shape in the header only: products that overflow, sides below zero, hundreds of them."""

    def change(header: Any, name: str) -> None:
        sides: Any = [random.choice(SIDES) for _ in range(random.choice((0, 1, 2, 3, 5)))]
        header[name]["shape"] = random.choice(
            (sides, [1] * 1000, [2**32, 2**32], [2**16] * 4, [0, 2**63], None, "3", {})
        )

    _in_header(random, files, change)


def header_name(random: Random, files: Files) -> None:
    """Another name."""

    def change(header: Any, name: str) -> None:
        entry = header.pop(name)
        at = random.randrange(len(name) + 1)
        header[random.choice((*NAMES, name.upper(), f"{name} ", name[:at], name[:at] + "é" + name[at:]))] = entry

    _in_header(random, files, change)


def metadata(random: Random, files: Files) -> None:
    """Metadata that is not text by text, or long."""
    values: tuple[Any, ...] = (
        {"format": "pt"}, {"format": "tf"}, {"format": 3}, {"a": None}, [], None, "pt", 3, {"a": "x" * 100_000},
        {"a": {"b": "c"}}, {"\ud800": "x"}, {},
    )  # fmt: skip
    _in_header(random, files, lambda header, _: header.update(__metadata__=random.choice(values)))


def duplicate_tensor(random: Random, files: Files) -> None:
    """A name that comes twice in the header."""
    file = random.choice(FILES)
    header, body = split(files.get(file, b""))
    if header:
        text, name = json.dumps(header), random.choice(list(header))
        entry = json.dumps(random.choice(list(header.values())))
        files[file] = join(f"{text[:-1]}, {json.dumps(name)}: {entry}}}".encode(), body)


def header_text(random: Random, files: Files) -> None:
    """Bytes of the header that are cut out, put in or changed."""
    file = random.choice(FILES)
    data = files.get(file, b"") + bytes(8)
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    for _ in range(random.randrange(1, 5)):
        at = random.randrange(len(header) + 1)
        piece = random.choice(
            (b"", b"{", b"}", b"[", b"]", b'"', b",", b"9", b"-", b"\\ud800", b"\\u0000", random.randbytes(2))
        )
        header = header[:at] + piece + header[at + random.randrange(4) :]
    files[file] = join(header, body) if random.random() < 0.8 else data[:8] + header + body


def deep_header(random: Random, files: Files) -> None:
    """Brackets within brackets in a header."""
    depth = random.choice((100, 128, 1000, 100_000))
    nested = b"[" * depth + b"]" * random.choice((depth, 0))
    file = random.choice(FILES)
    _, body = split(files.get(file, b""))
    files[file] = join(random.choice((nested, b'{"a":' + nested + b"}", b'{"__metadata__":' + nested + b"}")), body)


def wide_header(random: Random, files: Files) -> None:
    """A header of megabytes, most of it spaces."""
    file = random.choice(FILES)
    header, body = split(files.get(file, b""))
    text = json.dumps(header).encode()
    files[file] = join(text + b" " * random.choice((1 << 20, 8 << 20, (8 << 20) + 1)), body)


def many_tensors(random: Random, files: Files) -> None:
    """Thousands of tensors without a number in them."""
    file = random.choice(FILES)
    parts = items(files.get(file, b""))
    count = random.choice((20, 3000, 20_001))
    files[file] = whole(parts + [Item(f"base_model.model.a{index}", "F32", (0,), b"") for index in range(count)])


def odd_numbers(random: Random, files: Files) -> None:
    """NaN, infinity, or numbers at the end of their range."""

    def change(parts: list[Item], at: int) -> None:
        data = bytearray(parts[at].data)
        if data:
            number = random.choice((float("nan"), float("inf"), -float("inf"), 3e38, 1e-45, -0.0))
            where = random.randrange(len(data)) & ~3
            data[where : where + 4] = struct.pack("<f", number)[: len(data) - where]
            parts[at] = replace(parts[at], data=bytes(data))

    _in_items(random, files, change)


def all_alike(random: Random, files: Files) -> None:
    """A tensor of one number only."""

    def change(parts: list[Item], at: int) -> None:
        number = struct.pack("<f", random.choice((0.0, 1.0, 3e38, -3e38, 1e-45)))
        parts[at] = replace(parts[at], data=(number * (len(parts[at].data) // 4 + 1))[: len(parts[at].data)])

    _in_items(random, files, change)


def retyped(random: Random, files: Files) -> None:
    """Another type, with a body that fits it."""

    def change(parts: list[Item], at: int) -> None:
        dtype = random.choice(list(BYTES))
        size = prod(parts[at].shape) * BYTES[dtype]
        data = (parts[at].data * (size // max(len(parts[at].data), 1) + 1))[:size]
        parts[at] = replace(parts[at], dtype=dtype, data=data + bytes(size - len(data)))

    _in_items(random, files, change)


def reshaped(random: Random, files: Files) -> None:
    """Another shape, with a body that fits it."""

    def change(parts: list[Item], at: int) -> None:
        own = parts[at]
        sides = random.choice(
            (own.shape[::-1], (prod(own.shape),), (1, *own.shape), (*own.shape, 1), own.shape[1:], own.shape[:-1],
            (0, *own.shape),
             (0,), (), (*own.shape[:-1], 0), (1,) * 64, (2**16, 0, 2**16), tuple(side + 1 for side in own.shape))
        )  # fmt: skip
        size = prod(sides) * BYTES.get(own.dtype, 4)
        parts[at] = replace(own, shape=sides, data=(own.data + bytes(size))[:size])

    _in_items(random, files, change)


def less_or_more(random: Random, files: Files) -> None:
    """A tensor that is gone, new, or under another's name."""

    def change(parts: list[Item], at: int) -> None:
        kind = random.randrange(4)
        if kind == 0:
            del parts[at]
        elif kind == 1:
            parts.append(replace(parts[at], name=random.choice(NAMES)))
        elif kind == 2:
            other = random.randrange(len(parts))
            parts[at], parts[other] = (
                replace(parts[at], name=parts[other].name),
                replace(parts[other], name=parts[at].name),
            )
        else:
            random.shuffle(parts)

    _in_items(random, files, change)


def body(random: Random, files: Files) -> None:
    """A body that is too short, too long, or moved."""
    file = random.choice(FILES)
    data = files.get(file, b"")
    cut = random.randrange(len(data) + 1)
    files[file] = random.choice(
        (data[:cut], data + bytes(random.choice((1, 8, 4096))), data[:-1], data[:8], data[:7], b"\0" + data)
    )


MUTATORS: dict[str, Callable[[Random, Files], None]] = {
    "header length": header_length,
    "offsets": offsets,
    "type word": type_word,
    "shape": shape,
    "tensor name": header_name,
    "metadata": metadata,
    "duplicate tensor": duplicate_tensor,
    "header text": header_text,
    "deep header": deep_header,
    "wide header": wide_header,
    "many tensors": many_tensors,
    "odd numbers": odd_numbers,
    "all alike": all_alike,
    "retyped": retyped,
    "reshaped": reshaped,
    "less or more": less_or_more,
    "body": body,
}
