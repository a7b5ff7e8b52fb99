"""Logits do not depend on how many pictures run at once, and full memory makes them fewer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from factories import fitted, lora_package, pictures, random_backbone, stacked
from lensmount.errors import InvalidInputError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.answering import answer
from lensmount_adapters.backbones import Backbone
from lensmount_training.data import Pictures
from lensmount_training.evaluation import predicting
from lensmount_training.evaluation.predicting import predict, predict_adapter
from lensmount_training.progress import NoProgress


class Count(NoProgress):
    """Counts what is done."""

    done = 0

    def advance(self, count: int = 1, note: str = "") -> None:  # noqa: ARG002 the protocol has it
        self.done += count


class Narrow:
    """Means of every channel; more than `limit` pictures at once are too many."""

    def __init__(self, limit: int, error: Exception) -> None:
        self.limit = limit
        self.error = error
        self.sizes: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > self.limit:
            raise self.error
        self.sizes.append(len(x))
        return x.mean((2, 3))


FULL = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("test_vit")


@pytest.fixture(scope="module")
def shots(backbone: Backbone) -> Pictures:
    return Pictures.of(stacked(backbone, pictures(11)), torch.arange(11) % 3)


def test_portions_are_halved_until_they_fit(backbone: Backbone, shots: Pictures) -> None:
    wide, narrow, bar = Narrow(99, FULL), Narrow(3, FULL), Count()
    expected = predict(wide, backbone, shots, NoProgress())
    torch.testing.assert_close(predict(narrow, backbone, shots, bar), expected)
    assert (wide.sizes, narrow.sizes, bar.done) == ([8, 3], [2, 2, 2, 2, 2, 1], 11)


def test_one_picture_that_is_too_much_is_a_sentence(backbone: Backbone, shots: Pictures) -> None:
    with pytest.raises(InvalidInputError, match="not enough for one picture") as caught:
        predict(Narrow(0, FULL), backbone, shots, NoProgress())
    assert "smaller backbone" in caught.value.fix


def test_another_error_stays_what_it_is(backbone: Backbone, shots: Pictures) -> None:
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        predict(Narrow(3, RuntimeError("shapes do not fit")), backbone, shots, NoProgress())


def test_an_adapter_takes_smaller_portions_too(
    backbone: Backbone, shots: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora_package(tmp_path, backbone, task="t", labels=3)
    adapter = fitted(tmp_path / "package", backbone)
    expected = predict_adapter(adapter, backbone, shots, NoProgress())

    def narrow(adapter: Adapter, backbone: Backbone, rows: Tensor) -> Tensor:
        if len(rows) > 2:
            raise FULL
        return answer(adapter, backbone, rows)

    monkeypatch.setattr(predicting, "answer", narrow)
    torch.testing.assert_close(predict_adapter(adapter, backbone, shots, NoProgress()), expected, rtol=1e-4, atol=1e-5)
