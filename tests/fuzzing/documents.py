"""Mutations of task.json and adapter_config.json: as documents, and as text that is no document."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

Files = dict[str, bytes]

FILES = ("task.json", "adapter_config.json")
ODD_TEXTS = (
    "", " ", "\0", "\n", "\x7f", "é", "e\u0301", "ﬁ", "\u202e", "\ufeff", "🎥", "\U0010ffff", "\ud800", "..",
    "../../x", "/",
    "C:\\x", "NaN", "null", "true", "-0", "1e999", "lora", "replace", "blocks.5", "stem", "norm", "layer3.0", "linear",
    "attention", "mlp", "cosine", "LORA", "bicubic", "squash", "all", "lora_only", "(a+)+$", "a" * 64, "a" * 65,
    "x" * 100_000,
    "%s%n", "{0.__class__}", "$(id)", "'; DROP TABLE versions;--",
)  # fmt: skip
ODD_NUMBERS = (
    0, -0.0, 1, -1, 2, 3, 4, 7, 8, 32, 64, 256, 257, 1000, 1001, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64,
    -(2**63) - 1,
    10**400, 0.5, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
RAW_NUMBERS = (
    "1" * 5000,
    "-" + "9" * 400,
    "1e999999999",
    "1E-999999999",
    "0x10",
    "01",
    ".5",
    "1.",
    "-",
    "+1",
    "NaN",
    "Infinity",
    "1_0",
)
PATTERNS = (
    "(a+)+$", ".*", "a{1,99999}", "[", "\\", "(?P<x>", "attn.qkv", "attn\\.qkv", "^", "$", "|", "||||", "qkv|proj",
    "\\1",
    "\\b", "\\Z", "." * 500, "a|" * 240, "(?i)a", "x*", "é", "",
)  # fmt: skip


def _change(random: Random, files: Files, change: Callable[[Any], Any]) -> None:
    """Change a JSON file as a document; the head's specimen gets a config that it should not have."""
    file = random.choice(FILES)
    try:
        document = json.loads(files.get(file, b'{"peft_type": "LORA", "r": 4, "lora_alpha": 8}'))
    except (ValueError, RecursionError):
        return  # another mutation was here
    files[file] = json.dumps(change(document)).encode()


def _text(random: Random, files: Files, change: Callable[[bytes], bytes]) -> None:
    file = random.choice(FILES)
    files[file] = change(files.get(file, b"{}"))


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path in a document, the whole document's first."""
    items: Any = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with another value at a path."""
    if not path:
        return value
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


def odd_value(random: Random, depth: int = 2) -> Any:
    """A value that nobody expects."""
    kind = random.randrange(8 if depth else 4)
    if kind == 0:
        return random.choice((None, True, False, [], {}))
    if kind == 1:
        return random.choice(ODD_TEXTS)
    if kind < 5:
        return random.choice(ODD_NUMBERS)
    if kind == 5:
        return [odd_value(random, depth - 1) for _ in range(random.randrange(5))]
    if kind == 6:
        return {random.choice(ODD_TEXTS): odd_value(random, depth - 1) for _ in range(random.randrange(4))}
    return [odd_value(random, 0)] * random.choice((2, 300, 1001))


def another_value(random: Random, files: Files) -> None:
    """Any value in any place."""
    _change(random, files, lambda document: put(document, random.choice(places(document)), odd_value(random)))


def another_key(random: Random, files: Files) -> None:
    """A key that is gone, renamed or new."""

    def change(document: Any) -> Any:
        owners = [path for path in places(document) if path and isinstance(path[-1], str)]
        if not owners:
            return document
        *path, key = random.choice(owners)
        inner = document
        for step in path:
            inner = inner[step]
        value = inner.pop(key) if random.random() < 0.7 else inner[key]
        if random.random() < 0.5:
            inner[random.choice((key.upper(), f"{key} ", f"{key}\0", *ODD_TEXTS))] = value
        return document

    _change(random, files, change)


def duplicate_key(random: Random, files: Files) -> None:
    """A key that is given twice, with two values."""

    def change(text: bytes) -> bytes:
        key = random.choice((b"task", b"labels", b"fork", b"r", b"edits", b"peft_type", b"head", b"new"))
        value = json.dumps(odd_value(random)).encode()
        start = text.find(b"{") + 1
        return text[:start] + b'"' + key + b'": ' + value + b"," + text[start:]

    _text(random, files, change)


def deep_document(random: Random, files: Files) -> None:
    """Brackets within brackets, closed or not."""
    depth = random.choice((50, 127, 128, 129, 1000, 20_000, 200_000))
    opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}")))
    nested = opening * depth + b"1" + closing * random.choice((depth, 0, depth // 2))

    def change(text: bytes) -> bytes:
        start = text.find(b"{") + 1
        return random.choice((nested, text[:start] + b'"labels": ' + nested + b"," + text[start:]))

    _text(random, files, change)


def raw_number(random: Random, files: Files) -> None:
    """A number that is none, or has no end."""

    def change(text: bytes) -> bytes:
        key = random.choice((b'"fork": ', b'"r": ', b'"lora_alpha": ', b'"height": ', b'"seed": ', b'"temperature": '))
        number = random.choice(RAW_NUMBERS).encode()
        at = text.find(key)
        if at < 0:
            start = text.find(b"{") + 1
            return text[:start] + key + number + b"," + text[start:]
        return text[: at + len(key)] + number + text[at + len(key) + random.randrange(3) :]

    _text(random, files, change)


def raw_text(random: Random, files: Files) -> None:
    """Half a surrogate, a bad escape or bad UTF-8 where a letter was."""
    pieces = (
        b"\\ud800",
        b"\\udfff\\ud800",
        b"\\u0000",
        b"\\x41",
        b"\\",
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\0",
        b"\n",
        b'"',
    )

    def change(text: bytes) -> bytes:
        letters = [at for at, byte in enumerate(text) if chr(byte).isalpha()] or [0]
        at = random.choice(letters)
        return text[:at] + random.choice(pieces) + text[at + 1 :]

    _text(random, files, change)


def another_encoding(random: Random, files: Files) -> None:
    """The text in another encoding, or with something before or behind it."""

    def change(text: bytes) -> bytes:
        plain = text.decode(errors="replace")
        return random.choice(
            (b"\xef\xbb\xbf" + text, plain.encode("utf-16"), plain.encode("utf-32"), text + b"\0", text + text, b"",
            b" ",
             b"null", b"[]", b"\0" * 100, text + b" " * random.choice((1, 1 << 20)))
        )  # fmt: skip

    _text(random, files, change)


def cut_text(random: Random, files: Files) -> None:
    """Pieces that are cut out, put in or changed."""

    def change(text: bytes) -> bytes:
        for _ in range(random.randrange(1, 5)):
            at = random.randrange(len(text) + 1)
            piece = random.choice(
                (b"", b"{", b"}", b"[", b"]", b'"', b",", b":", b"-", b"e9", b"0", random.randbytes(3))
            )
            text = text[:at] + piece + text[at + random.randrange(6) :]
        return text

    _text(random, files, change)


def other_labels(random: Random, files: Files) -> None:
    """Labels that look alike, are many, or do not fit thresholds and head."""
    label_sets = (
        ["é", "e\u0301"], ["a", "a "], ["a", "\u0430"], ["x"] * 2, [f"l{i}" for i in range(random.choice((1, 2, 4, 1000,
        1001)))],
        ["\ud800"], ["a" * 101], [""], [None], "abc",
    )  # fmt: skip
    _manifest(files, {"labels": random.choice(label_sets), "thresholds": random.choice(([], [0.5], [0.5] * 3, [2]))})


def other_edits(random: Random, files: Files) -> None:
    """Segments that are not there, come twice, or are edited otherwise than the tensors say."""
    names = ("stem", "blocks.0", "blocks.5", "layer3.0", "layer4.0", "norm", "blocks.5.attn", "", "\0", "..")
    kinds = ("lora", "replace", "none")
    edits = [
        {"segment": random.choice(names), "kind": random.choice(kinds)}
        for _ in range(random.choice((0, 1, 2, 3, 1001)))
    ]
    _manifest(files, {"edits": edits, "fork": random.choice((0, 3, 6, 7, 8, 10**9))})


def other_head(random: Random, files: Files) -> None:
    """Heads of every kind and size."""
    head = {
        "kind": random.choice(("linear", "mlp", "attention", "cosine", "x")),
        "hidden": random.choice((1, 256, 8192, 8193)),
    }
    _manifest(files, {"head": {**head, "heads": random.choice((0, 1, 3, 4, 64, 65))}})


def other_preprocessing(random: Random, files: Files) -> None:
    """Sizes, crops and means at and beyond their limits."""
    values: dict[str, Any] = {
        "height": random.choice((31, 32, 160, 1024, 1025)), "width": random.choice((32, 96, 160, 1e3, "160")),
        "crop_pct": random.choice((0.24, 0.25, 1, 1.01, 5e-324)), "std": random.choice(([0, 0, 0], [1e-320] * 3, [1,
        1])),
        "mean": random.choice(([1e308] * 3, [0] * 4)), "interpolation": random.choice(("nearest", "bilinear")),
        "crop_mode": random.choice(("border", "squash")),
    }  # fmt: skip
    name = random.choice(list(values))

    def change(manifest: Any) -> None:
        if isinstance(manifest.get("preprocessing"), dict):
            manifest["preprocessing"][name] = values[name]

    _manifest(files, {}, change)


def patterns(random: Random, files: Files) -> None:
    """Expressions that PEFT would take and that could run for ever, in numbers that could too."""
    names = [
        random.choice(PATTERNS) + random.choice(("", str(index))) for index in range(random.choice((1, 2, 50, 1001)))
    ]
    values: Any = {name: random.choice((1, 4, 256, 257, 0, 2.5, "4")) for name in names}
    _config(files, {random.choice(("rank_pattern", "alpha_pattern")): values})


def peft_settings(random: Random, files: Files) -> None:
    """Settings of PEFT that change what A and B mean."""
    names = ("r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "bias", "peft_type", "init_lora_weights",
             "use_qalora", "alora_invocation_tokens", "megatron_config", "layer_replication",
             "target_parameters")  # fmt: skip
    _config(files, {random.choice(names): odd_value(random)})


def ranks(random: Random, files: Files) -> None:
    """Another rank than that of A and B, for all modules or for some."""
    rank = random.choice((1, 2, 3, 5, 8, 255, 256))
    name = random.choice(("qkv", "attn.qkv", ".*", "blocks.5.attn.proj", "mlp.fc1", "fc2$"))
    _config(files, random.choice(({"r": rank}, {"rank_pattern": {name: rank}}, {"alpha_pattern": {name: float(rank)}})))


def another_file(random: Random, files: Files) -> None:
    """A file that is gone, empty, or holds what belongs into another."""
    name = random.choice(list(files))
    kind = random.randrange(4)
    if kind == 0:
        del files[name]
    elif kind == 1:
        files[name] = b""
    elif kind == 2:
        files[name] = files[random.choice(list(files))]
    else:
        files[
            random.choice(("adapter_model.bin", "pytorch_model.pkl", "README", "task.json~", ".hidden", "golden.npz"))
        ] = files[name]


def _manifest(files: Files, values: dict[str, Any], change: Callable[[Any], object] = lambda _: None) -> None:
    _set("task.json", files, values, change)


def _config(files: Files, values: dict[str, Any]) -> None:
    _set("adapter_config.json", files, values, lambda _: None)


def _set(file: str, files: Files, values: dict[str, Any], change: Callable[[Any], object]) -> None:
    try:
        document = json.loads(files.get(file, b"{}"))
    except (ValueError, RecursionError):
        return  # another mutation was here
    if isinstance(document, dict):
        document.update(values)
        change(document)
        files[file] = json.dumps(document).encode()


MUTATORS: dict[str, Callable[[Random, Files], None]] = {
    "another value": another_value,
    "another key": another_key,
    "duplicate key": duplicate_key,
    "deep document": deep_document,
    "raw number": raw_number,
    "raw text": raw_text,
    "another encoding": another_encoding,
    "cut text": cut_text,
    "labels": other_labels,
    "edits": other_edits,
    "head": other_head,
    "preprocessing": other_preprocessing,
    "patterns": patterns,
    "PEFT settings": peft_settings,
    "ranks": ranks,
    "another file": another_file,
}
