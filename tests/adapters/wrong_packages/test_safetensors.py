"""Damaged safetensors files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lensmount_adapters.golden import FILE as GOLDEN_FILE
from lensmount_adapters.package import TENSOR_FILE
from tampering import Kit, Tamper, complaint, shortened, with_header, written


@pytest.mark.parametrize("file", [TENSOR_FILE, GOLDEN_FILE])
@pytest.mark.parametrize("tenths", range(10))
def test_truncated_safetensors(file: str, tenths: int, vit: Kit, tmp_path: Path) -> None:
    text = complaint(vit, tmp_path, shortened(file, tenths))
    assert text.startswith(f"{file}: not a readable safetensors file")
    assert "send the package again" in text


HEADERS: dict[str, Callable[[str], Tamper]] = {
    "empty": lambda file: written(file, b""),
    "huge length": lambda file: written(file, b"\xff" * 8 + b"{}"),
    "length beyond the file": lambda file: written(file, (1 << 20).to_bytes(8, "little") + b"{}"),
    "not JSON": lambda file: with_header(file, lambda header: b"#" * len(header)),
    "not UTF-8": lambda file: with_header(file, lambda header: b"\xff" * len(header)),
    "a list": lambda file: with_header(file, lambda _: b"[]"),
    "offsets beyond the file": lambda file: with_header(file, lambda h: h.replace(b'"data_offsets":[', b"[9", 1)),
    "an unknown type": lambda file: with_header(file, lambda h: h.replace(b"F32", b"F6X", 1)),
    "a type that torch lacks": lambda file: written(file, six_bit_floats()),
    "a pickle": lambda file: written(file, b"\x80\x04cos\nsystem\n(S'true'\ntR."),
    "a zip": lambda file: written(file, b"PK\x03\x04" + bytes(100)),
}


def six_bit_floats() -> bytes:
    header = b'{"a":{"dtype":"F6_E2M3","shape":[8],"data_offsets":[0,6]}}'
    return len(header).to_bytes(8, "little") + header + bytes(6)


@pytest.mark.parametrize("file", [TENSOR_FILE, GOLDEN_FILE])
@pytest.mark.parametrize("case", HEADERS)
def test_damaged_safetensors(case: str, file: str, vit: Kit, tmp_path: Path) -> None:
    text = complaint(vit, tmp_path, HEADERS[case](file))
    assert text.startswith(f"{file}: ")
