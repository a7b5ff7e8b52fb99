"""Three packages that are right, made once for each file of tests that spoil copies of them."""

from __future__ import annotations

import pytest

from factories import lora_package, random_backbone, replaced_package
from tampering import Kit


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    folder, backbone = tmp_path_factory.mktemp("vit"), random_backbone("test_vit")
    lora_package(folder, backbone)
    return Kit(backbone, folder / "package")


@pytest.fixture(scope="module")
def effnet(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    folder, backbone = tmp_path_factory.mktemp("effnet"), random_backbone("test_efficientnet")
    lora_package(folder, backbone)
    return Kit(backbone, folder / "package")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    folder, backbone = tmp_path_factory.mktemp("resnet"), random_backbone("test_resnet")
    replaced_package(folder / "package", backbone)
    return Kit(backbone, folder / "package")
