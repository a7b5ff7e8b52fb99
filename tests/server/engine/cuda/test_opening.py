from __future__ import annotations

import pytest
import torch

from factories import random_backbone
from lensmount.errors import InvalidInputError, UnavailableError
from lensmount_server.engine.cuda.opening import error_in
from lensmount_server.engine.opening import open_engine
from lensmount_server.engine.probes import COARSE
from lensmount_server.engine.settings import EngineSettings


def test_the_error_of_a_precision_is_that_of_its_rounding() -> None:
    backbone = random_backbone("test_vit")
    assert error_in(backbone, "fp32") < 1e-6
    assert 1e-4 < error_in(backbone, "bf16") < COARSE


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_error() -> None:
    with pytest.raises(UnavailableError, match="finds no GPU") as caught:
        open_engine(random_backbone("test_vit"), EngineSettings(device="cuda"))
    assert caught.value.field == "device"
    assert "--device cpu" in caught.value.fix


def test_an_engine_of_cpus_is_refused_on_a_gpu() -> None:
    with pytest.raises(InvalidInputError, match="for CPUs") as caught:
        open_engine(random_backbone("test_vit"), EngineSettings("openvino", device="cuda"))
    assert (caught.value.field, caught.value.value) == ("engine", "openvino")
