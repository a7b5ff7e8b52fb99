"""Whatever a package holds, only our own errors come out of reading it and putting it on a backbone."""

from __future__ import annotations

import json
import struct
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factories import lora_package, random_backbone, replaced_package
from lensmount.errors import LensmountError
from lensmount_adapters.adapter import fit
from lensmount_adapters.golden import FILE as GOLDEN_FILE
from lensmount_adapters.package import CONFIG_FILE, MANIFEST_FILE, TENSOR_FILE, read_package
from tampering import Kit

LORA: dict[str, dict[str, Any]] = {"lora": {}, "dora, all biases": {"use_dora": True, "bias": "all"}}
SLOW = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([-(2**63), 2**63, 2**64, 10**30]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["lora", "replace", "blocks.5", "layer3.0", "(a+)+$", "\\", "norm", "mlp"]),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
pieces = st.binary(min_size=1, max_size=5) | st.sampled_from([b"{", b"}", b"[", b"]", b'"', b",", b"-", b"e9", b"0"])
cuts = st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 5), st.just(b"") | pieces), min_size=1, max_size=4)


@pytest.fixture(scope="module", params=[*LORA, "replaced"])
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    folder = tmp_path_factory.mktemp("kit")
    if request.param in LORA:
        backbone = random_backbone("test_vit")
        lora_package(folder, backbone, **LORA[request.param])
    else:
        backbone = random_backbone("test_resnet")
        replaced_package(folder / "package", backbone)
    return Kit(backbone, folder / "package")


def outcome(kit: Kit, file: str, data: bytes) -> str:
    """What becomes of the package with this file in it: fits, or the class of our error."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for path in kit.folder.iterdir():
            if path.name != file:
                (folder / path.name).hardlink_to(path)
        (folder / file).write_bytes(data)
        try:
            fit(read_package(folder), kit.backbone)
        except LensmountError as error:
            return f"{type(error).__name__} with fix" if error.field and error.fix else f"no field or fix: {error}"
    return "fits"


def spoiled(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for where, length, piece in edits:
        at = int(where * len(data))
        data = data[:at] + piece + data[at + length :]
    return data


def places(document: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every path in a JSON document."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(document, dict):
        items = list(document.items())
    elif isinstance(document, list):
        items = list(enumerate(document))
    return [*([path] if path else []), *(p for key, inner in items for p in places(inner, (*path, key)))]


def put(document: Any, path: tuple[str | int, ...], value: object) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


def files(kit: Kit, *names: str) -> list[str]:
    return [name for name in names if (kit.folder / name).exists()]


@SLOW
@given(data=st.data())
def test_json_with_another_value_in_any_place(kit: Kit, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(files(kit, MANIFEST_FILE, CONFIG_FILE)))
    document = json.loads((kit.folder / file).read_text())
    put(document, data.draw(st.sampled_from(places(document))), data.draw(values))
    assert outcome(kit, file, json.dumps(document).encode()) in {
        "fits",
        "InvalidInputError with fix",
        "IncompatibleError with fix",
    }


@SLOW
@given(data=st.data(), edits=cuts)
def test_json_with_other_bytes(kit: Kit, data: st.DataObject, edits: list[tuple[float, int, bytes]]) -> None:
    file = data.draw(st.sampled_from(files(kit, MANIFEST_FILE, CONFIG_FILE)))
    assert "no field" not in outcome(kit, file, spoiled((kit.folder / file).read_bytes(), edits))


@SLOW
@given(file=st.sampled_from([TENSOR_FILE, GOLDEN_FILE]), edits=cuts, keep_length=st.booleans())
def test_safetensors_headers_with_other_bytes(
    kit: Kit, file: str, edits: list[tuple[float, int, bytes]], keep_length: bool
) -> None:
    whole = (kit.folder / file).read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = spoiled(whole[8 : 8 + length], edits)
    start = whole[:8] if keep_length else struct.pack("<Q", len(header))
    assert "no field" not in outcome(kit, file, start + header + whole[8 + length :])


@SLOW
@given(data=st.data(), file=st.sampled_from([TENSOR_FILE, GOLDEN_FILE]))
def test_safetensors_headers_with_another_value(kit: Kit, data: st.DataObject, file: str) -> None:
    whole = (kit.folder / file).read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    document = json.loads(whole[8 : 8 + length])
    types = st.sampled_from(["F64", "F16", "I64", "I32", "U16", "BOOL", "F8_E4M3", "F4", "F6_E2M3", "C64", "X"])
    put(document, data.draw(st.sampled_from(places(document))), data.draw(values | types))
    header = json.dumps(document).encode()
    assert "no field" not in outcome(kit, file, struct.pack("<Q", len(header)) + header + whole[8 + length :])


@SLOW
@given(file=st.sampled_from([MANIFEST_FILE, TENSOR_FILE, GOLDEN_FILE]), data=st.binary(max_size=200))
def test_random_bytes_in_a_file(kit: Kit, file: str, data: bytes) -> None:
    assert outcome(kit, file, data) == "InvalidInputError with fix"


def test_the_fuzzing_reaches_packages_that_fit_and_packages_that_do_not(kit: Kit) -> None:
    manifest = json.loads((kit.folder / MANIFEST_FILE).read_text())
    seen: Counter[str] = Counter()
    for path in places(manifest):
        document = json.loads((kit.folder / MANIFEST_FILE).read_text())
        put(document, path, 1)
        seen[outcome(kit, MANIFEST_FILE, json.dumps(document).encode())] += 1
    assert seen["fits"] > 2
    assert seen["InvalidInputError with fix"] > 10
    assert len(seen) == 2
