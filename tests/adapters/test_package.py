"""A package is written whole or not at all, comes back as it was, and is known by its content."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from factories import fitted, head_package, lora_package, manifest, pictures, random_backbone, replaced_package
from lensmount.errors import IncompatibleError, InvalidInputError
from lensmount_adapters import package as package_module
from lensmount_adapters.adapter import fit
from lensmount_adapters.golden import Golden
from lensmount_adapters.package import MAX_BYTES, content_hash, read_content, read_package, write_package


@pytest.fixture(scope="module")
def lora_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    lora_package(folder, random_backbone("test_vit"))
    return folder / "package"


def parts() -> tuple[dict[str, Tensor], Golden]:
    shots = pictures(2)
    return {"head.weight": torch.randn(3, 64), "head.bias": torch.randn(3)}, Golden(shots, torch.randn(2, 3))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    tensors, golden = parts()
    described = manifest(random_backbone("test_vit"), "scene", 3, thresholds=[0.1, 0.2, 0.3], temperature=1.5)
    write_package(tmp_path / "out", described, tensors, golden, "# scene\n")
    package = read_package(tmp_path / "out")
    assert package.manifest == described
    assert package.lora is None
    assert package.tensors.keys() == tensors.keys()
    assert all(torch.equal(package.tensors[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(package.golden.logits, golden.logits)
    assert all(np.array_equal(*pair) for pair in zip(package.golden.pictures, golden.pictures, strict=True))
    assert package.content_hash == content_hash(tmp_path / "out")
    assert package.size_bytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert (tmp_path / "out" / "README.md").read_text() == "# scene\n"


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    tensors, golden = parts()
    described = manifest(random_backbone("test_vit"), "scene", 3)
    write_package(tmp_path / "out", described, {n: t.bfloat16() for n, t in tensors.items()}, golden, "")
    package = read_package(tmp_path / "out")
    assert all(torch.equal(package.tensors[name], t.bfloat16().float()) for name, t in tensors.items())


@pytest.mark.parametrize("kind", ["lora", "head", "replaced"])
def test_a_package_fits_the_backbone_it_was_made_on(kind: str, tmp_path: Path) -> None:
    backbone = random_backbone("test_resnet")
    if kind == "lora":
        lora_package(tmp_path, backbone)
    elif kind == "head":
        head_package(tmp_path / "package", backbone)
    else:
        replaced_package(tmp_path / "package", backbone)
    adapter = fitted(tmp_path / "package", backbone)
    assert adapter.fork == {"lora": 3, "head": 5, "replaced": 3}[kind]
    assert list(adapter.lora) == ([3] if kind == "lora" else [])
    assert list(adapter.replaced) == ([3] if kind == "replaced" else [])
    assert not any(parameter.requires_grad for parameter in adapter.head.parameters())


def test_every_byte_counts_for_the_hash(lora_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(lora_folder, tmp_path / "copy"))
    before = content_hash(lora_folder)
    assert content_hash(copy) == before
    assert {path.name for path in copy.iterdir()} == set(MAX_BYTES)
    for path in copy.iterdir():
        data = path.read_bytes()
        for at in (0, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert content_hash(copy) != before
        path.write_bytes(data + b"\0")
        assert content_hash(copy) != before
        path.write_bytes(data)
    assert content_hash(copy) == before


def test_times_modes_and_places_do_not_count_for_the_hash(lora_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(lora_folder, tmp_path / "other" / "place"))
    for path in copy.iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    assert content_hash(copy) == content_hash(lora_folder)


def test_names_count_for_the_hash(lora_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(lora_folder, tmp_path / "copy"))
    (copy / "README.md").rename(copy / "README")
    assert content_hash(copy) != content_hash(lora_folder)


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(InvalidInputError, match="exists") as caught:
        write_package(tmp_path / "out", manifest(random_backbone(), "scene", 3), *parts(), "")
    assert "--out" in caught.value.fix
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


@pytest.mark.parametrize("fault", ["golden", "tensors", "config", "rename"])
def test_a_failure_midway_leaves_nothing_and_the_next_try_works(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, golden = parts()
    described = manifest(random_backbone("test_vit"), "scene", 3)
    one = torch.zeros(4)
    spoiled = {"tensors": {"a": one[:2], "b": one[1:3]} if fault == "tensors" else tensors}
    lora = {"target_modules": {1, 2}} if fault == "config" else None

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        if fault == "golden":
            patched.setattr(package_module, "write_golden", fail)
        if fault == "rename":
            patched.setattr(Path, "rename", fail)
        with pytest.raises((OSError, RuntimeError, TypeError)):
            write_package(tmp_path / "runs" / "out", described, spoiled["tensors"], golden, "", lora=lora)
    assert list((tmp_path / "runs").iterdir()) == []
    write_package(tmp_path / "runs" / "out", described, tensors, golden, "")
    assert read_package(tmp_path / "runs" / "out").manifest == described


def test_the_lora_part_is_pefts_own(lora_folder: Path) -> None:
    config = json.loads((lora_folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    package = read_package(lora_folder)
    assert package.lora is not None
    assert package.lora.r == config["r"] == 4


def test_what_runs_of_a_package_is_the_same_however_it_is_read(lora_folder: Path) -> None:
    package = read_package(lora_folder)
    content = read_content(lora_folder, package.content_hash)
    assert content.manifest == package.manifest
    assert content.lora == package.lora
    assert content.content_hash == package.content_hash
    assert content.tensors.keys() == package.tensors.keys()
    assert all(torch.equal(content.tensors[name], tensor) for name, tensor in package.tensors.items())


@pytest.mark.parametrize(
    "name", ["task.json", "adapter_config.json", "adapter_model.safetensors", "golden.safetensors", "README.md"]
)
def test_content_whose_bytes_changed_is_not_read(lora_folder: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(lora_folder, tmp_path / "package"))
    expected = content_hash(folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(IncompatibleError, match="changed on disk") as caught:
        read_content(folder, expected)
    assert caught.value.fix


def test_the_golden_pictures_are_hashed_and_not_looked_at(lora_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(*_: object) -> None:
        pytest.fail("it looked")

    expected = content_hash(lora_folder)
    monkeypatch.setattr(package_module, "read_golden", looked)
    assert read_content(lora_folder, expected)


@pytest.mark.parametrize("read", ["package", "content"])
def test_what_happens_to_the_file_does_not_reach_the_tensors(lora_folder: Path, tmp_path: Path, read: str) -> None:
    folder = Path(shutil.copytree(lora_folder, tmp_path / "package"))
    whole = read_package(folder) if read == "package" else read_content(folder, content_hash(folder))
    before = {name: tensor.clone() for name, tensor in whole.tensors.items()}
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.write(bytes((folder / "adapter_model.safetensors").stat().st_size))
    assert all(torch.equal(whole.tensors[name], tensor) for name, tensor in before.items())


def test_an_adapter_knows_its_size(lora_folder: Path, tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    replaced_package(tmp_path / "grade", backbone, task="grade")
    for folder in (lora_folder, tmp_path / "grade"):
        package = read_package(folder)
        tensors = sum(tensor.numel() * tensor.element_size() for tensor in package.tensors.values())
        assert fit(package, backbone).size_bytes == tensors


def test_an_adapter_moves_to_a_device_and_is_itself_where_it_is(lora_folder: Path, tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    replaced_package(tmp_path / "grade", backbone, task="grade")
    for folder in (lora_folder, tmp_path / "grade"):
        adapter = fitted(folder, backbone)
        assert adapter.to(torch.device("cpu")) is adapter
        moved = adapter.to(torch.device("meta"))
        assert {tensor.device.type for tensor in moved._tensors()} == {"meta"}
        assert {tensor.device.type for tensor in adapter._tensors()} == {"cpu"}
        assert (moved.content_hash, moved.fork, moved.size_bytes) == (
            adapter.content_hash,
            adapter.fork,
            adapter.size_bytes,
        )


def test_fitting_an_adapter_draws_no_random_numbers(lora_folder: Path) -> None:
    package, backbone = read_package(lora_folder), random_backbone("test_vit")
    before = torch.get_rng_state()
    fit(package, backbone)
    assert torch.equal(torch.get_rng_state(), before)
