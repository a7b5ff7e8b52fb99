"""The audit is timed from the folder on, with nothing cached."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lensmount_adapters.backbones import Backbone
from lensmount_training.bench import auditing
from lensmount_training.bench.setting import Setting
from lensmount_training.context import Context
from lensmount_training.data import Dataset
from lensmount_training.progress import NoProgress


def test_all_pictures_of_every_label(setting: Callable[[str], Setting], monkeypatch: pytest.MonkeyPatch) -> None:
    own = setting("test_vit")
    seen: list[Dataset] = []
    caches = set()

    def audit(dataset: Dataset, backbone: Backbone, context: Context) -> None:
        assert backbone is own.backbone
        assert [path.name for path in context.cache.iterdir()] == ["pictures"]
        caches.add(context.cache)
        seen.append(dataset)

    monkeypatch.setattr(auditing, "PICTURES", 100)
    monkeypatch.setattr(auditing, "audit", audit)
    two = Setting(own.backbone, own.weights, own.source, own.pictures, own.scratch, rounds=2)
    case = auditing.measure(two, NoProgress())
    assert [len(dataset.pictures) for dataset in seen] == [102, 102]
    assert not any(dataset.skipped for dataset in seen)
    assert len(caches) == 2
    assert (case.name, case.goal, case.ratio) == ("audit", 90, None)
    assert case.seconds > 0
