"""Files that somebody else wrote: nothing of them runs, nothing of them is believed."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from factories import lora_package, random_backbone
from lensmount.errors import InvalidInputError, LensmountError, TooLargeError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.importing import reading
from lensmount_adapters.importing.peft_file import read_peft
from lensmount_adapters.importing.reading import read_json, read_tensors
from lensmount_adapters.importing.request import Request
from lensmount_adapters.importing.workflow import import_adapter

QKV = "base_model.model.blocks.5.attn.qkv"


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return Path.write_text, (self.path, "it ran")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    lora_package(tmp_path, random_backbone("test_vit"), labels=3)
    return tmp_path / "peft"


def change(adapter: Path, **settings: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def put(adapter: Path, tensors: dict[str, Tensor | None]) -> None:
    file = adapter / "adapter_model.safetensors"
    changed = {**load_file(file), **tensors}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, file)


def imported(source: Path, folder: Path, backbone: Backbone) -> None:
    weights = folder / "weights.safetensors"
    save_file(dict(backbone.model.state_dict()), weights)
    import_adapter(Request(str(source), folder / "out", "t", ("a", "b", "c"), backbone.name, weights))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_bomb_does_not_go_off(suffix: str, zipped: bool, tmp_path: Path) -> None:
    path, mark = tmp_path / f"tuned{suffix}", tmp_path / "mark"
    torch.save({"weight": torch.ones(2), "bomb": Bomb(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InvalidInputError) as caught:
        read_tensors(path)
    assert caught.value.field == path.name
    assert caught.value.fix
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()


def test_a_bare_pickle_does_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "tuned.pth", tmp_path / "mark"
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(InvalidInputError) as caught:
        read_tensors(path)
    assert not mark.exists()
    assert "safetensors" in caught.value.fix or "damaged" in caught.value.fix


@pytest.mark.parametrize(
    "content", [[torch.ones(2)], {"epoch": 3}, {"a": {"b": torch.ones(1)}}, torch.ones(3), OrderedDict(a=1.0)]
)
def test_what_holds_no_tensors_by_name_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "tuned.pth")
    with pytest.raises(InvalidInputError, match="tensors by name expected"):
        read_tensors(tmp_path / "tuned.pth")


def test_a_shape_that_few_bytes_are_repeated_for_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1).expand(1 << 20, 1 << 14)}, tmp_path / "tuned.pth")
    assert (tmp_path / "tuned.pth").stat().st_size < 1 << 16
    with pytest.raises(TooLargeError) as caught:
        read_tensors(tmp_path / "tuned.pth")
    assert caught.value.value == f"{1 << 34:,}"


def test_a_file_beyond_the_limit_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 10)
    (tmp_path / "a.safetensors").write_bytes(bytes(11))
    with pytest.raises(TooLargeError, match="at most 10 bytes"):
        read_tensors(tmp_path / "a.safetensors")


def test_too_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_TENSORS", 2)
    save_file({str(i): torch.ones(1) for i in range(3)}, tmp_path / "a.safetensors")
    with pytest.raises(TooLargeError, match="at most 2 tensors"):
        read_tensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"PK\x03\x04" + b"x" * 60, bytes(range(256))])
def test_damaged_files(data: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    with pytest.raises(InvalidInputError) as caught:
        read_tensors(path)
    assert caught.value.field == path.name


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_end_in_an_error_of_ours_or_in_tensors(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    for suffix in (".safetensors", ".pth"):
        path = tmp_path / f"a{suffix}"
        tensors = {"weight": torch.ones(4, 3), "bias": torch.zeros(4)}
        save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
        data = bytearray(path.read_bytes())
        for place in random.integers(0, len(data), 4):
            data[place] ^= int(random.integers(1, 256))
        path.write_bytes(data)
        try:
            found = read_tensors(path)
        except LensmountError:
            continue
        assert all(bool(torch.isfinite(tensor).all()) for tensor in found.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_refused(value: float, tmp_path: Path) -> None:
    save_file({"weight": torch.tensor([1.0, value])}, tmp_path / "a.safetensors")
    with pytest.raises(InvalidInputError, match="NaN or infinity") as caught:
        read_tensors(tmp_path / "a.safetensors")
    assert caught.value.field == "a.safetensors: weight"


@pytest.mark.parametrize("text", ["[1]", "{", "null", '"x"', "[" * 100_000])
def test_json_that_is_no_object(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InvalidInputError) as caught:
        read_json(tmp_path / "config.json")
    assert caught.value.field == "config.json"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"peft_type": "IA3"}, "adapter_config.json: peft_type"),
        ({"r": 1000}, "adapter_config.json: r"),
        ({"rank_pattern": {"(a+)+$": 2}}, "adapter_config.json: rank_pattern.(a+)+$.[key]"),
        ({"init_lora_weights": "pissa"}, "adapter_config.json: init_lora_weights"),
        ({"use_qalora": True}, "adapter_config.json: use_qalora"),
        ({"layer_replication": [[0, 1]]}, "adapter_config.json: layer_replication"),
    ],
)
def test_settings_of_peft_that_are_not_followed(settings: dict[str, Any], field: str, adapter: Path) -> None:
    change(adapter, **settings)
    with pytest.raises(InvalidInputError) as caught:
        read_peft(adapter)
    assert caught.value.field == field
    assert caught.value.fix


def test_a_pattern_of_modules_is_never_run(adapter: Path, tmp_path: Path) -> None:
    """PEFT would take for ever to hold this against names of 40 letters; the modules are named by their tensors."""
    change(adapter, target_modules=r"^(([a-z_.0-9])+)+$!", exclude_modules=r"^(([a-z_.0-9])+)+$!")
    imported(adapter, tmp_path, random_backbone("test_vit"))


@pytest.mark.parametrize(
    ("tensors", "field"),
    [
        ({f"{QKV}.lora_B.weight": None}, "adapter_model.safetensors: blocks.5.attn.qkv"),
        ({f"{QKV}.lora_A.weight": torch.ones(4, 63)}, "blocks.5.attn.qkv.lora_A.weight"),
        ({f"{QKV}.lora_A.weight": torch.ones(5, 64)}, "adapter_model.safetensors: blocks.5.attn.qkv"),
        ({f"{QKV}.lora_B.weight": torch.ones(191, 4)}, "blocks.5.attn.qkv.lora_B.weight"),
        (
            {f"{QKV}.lora_embedding_A": torch.ones(4, 4)},
            "adapter_model.safetensors: blocks.5.attn.qkv.lora_embedding_A",
        ),
        ({f"{QKV}.lora_B.bias": torch.ones(192)}, "adapter_model.safetensors: blocks.5.attn.qkv"),
        ({f"{QKV}.lora_magnitude_vector": torch.ones(192)}, "adapter_model.safetensors: blocks.5.attn.qkv"),
        ({"base_model.model.blocks.44.norm1.bias": torch.ones(64)}, "blocks.44.norm1.bias"),
        ({"base_model.model.head.weight": torch.ones(3, 65)}, "head.weight"),
        ({"base_model.model.head.bias": torch.ones(4)}, "head.weight"),
        ({"base_model.model.head.extra": torch.ones(4)}, "head.weight"),
        ({"x.lora_A.weight": torch.ones(4, 64), "x.lora_B.weight": torch.ones(64, 4)}, "source"),
    ],
)
def test_tensors_that_do_not_fit(tensors: dict[str, Tensor | None], field: str, adapter: Path, tmp_path: Path) -> None:
    put(adapter, tensors)
    with pytest.raises(InvalidInputError) as caught:
        imported(adapter, tmp_path, random_backbone("test_vit"))
    assert caught.value.field == field
    assert caught.value.fix
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("files", [(), ("adapter_config.json",), ("a.safetensors", "b.safetensors"), ("config.json",)])
def test_folders_without_what_is_needed(files: tuple[str, ...], adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes((adapter / "adapter_config.json").read_bytes() if name.endswith("json") else b"")
    with pytest.raises(InvalidInputError) as caught:
        imported(folder, tmp_path, random_backbone("test_vit"))
    assert caught.value.field == "source"
    assert caught.value.fix


def test_a_file_that_is_no_weights(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(InvalidInputError, match="no file of weights"):
        imported(tmp_path / "a.onnx", tmp_path, random_backbone("test_vit"))
