"""Adapters of every kind on small backbones, made once for each file of tests."""

from __future__ import annotations

import pytest

from engines import Zoo, make_zoo
from factories import random_backbone


@pytest.fixture(scope="module", params=["test_vit", "test_resnet", "test_efficientnet"])
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return make_zoo(tmp_path_factory.mktemp("zoo"), random_backbone(request.param))
