"""Pictures of a bench: as many as wanted, none twice, and the same for both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.datasets import ImageFolder

from lensmount.errors import InvalidInputError
from lensmount_training.bench.material import PHOTOGRAPHS, Source
from lensmount_training.bench.naive import Loaders
from lensmount_training.bench.setting import Setting


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]


def test_files_as_they_are_come_first(tmp_path: Path, digits: Path) -> None:
    material = Source.of(digits).write(tmp_path, 60)
    learned, kept = contents(material.train), contents(material.validation)
    assert (len(learned), len(kept)) == (45, 15)
    assert {*learned, *kept} <= {*contents(digits)}
    assert len({*learned, *kept}) == 60


def test_crops_follow_where_they_are_too_few(tmp_path: Path, digits: Path) -> None:
    material = Source.of(digits).write(tmp_path, 300)
    found = [*contents(material.train), *contents(material.validation)]
    assert len(found) == len({*found}) == 300
    assert len({*found} & {*contents(digits)}) == 90
    counts = Counter(path.parent.name for path in material.validation.rglob("*") if path.is_file())
    assert counts == {"one": 20, "three": 20, "seven": 20}


def test_the_same_pictures_again(tmp_path: Path, digits: Path) -> None:
    first, second = (Source.of(digits).write(tmp_path / name, 120) for name in "ab")
    assert contents(first.train) == contents(second.train)


def test_photographs_where_nobody_gave_pictures(tmp_path: Path) -> None:
    source = Source.photographs(tmp_path / "photographs")
    assert tuple(source.files) == PHOTOGRAPHS
    folder = source.write_classes(tmp_path / "two", 2, 6)
    assert sorted(path.name for path in folder.iterdir()) == ["brick", "grass"]
    assert len({*contents(folder)}) == 12


def test_too_few_pictures_for_the_labels(tmp_path: Path, digits: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Source.of(digits).write(tmp_path, 29)
    assert (caught.value.field, caught.value.fix) == ("pictures", "give 30 or more")


def test_a_folder_with_one_class(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "1.png").write_bytes(b"")
    with pytest.raises(InvalidInputError) as caught:
        Source.of(tmp_path)
    assert caught.value.field == "data"


def test_both_sides_see_the_same_pictures(setting: Callable[[str], Setting], tmp_path: Path, short: None) -> None:
    """Each rescales in its own way, to the same picture but for rounding."""
    own = setting("test_vit")
    problem = own.material.problem(own.backbone, tmp_path / "cache")
    assert problem.labels == tuple(ImageFolder(str(own.material.train)).classes)
    loaders = Loaders.of(own.material, own.backbone)
    for loader, part in ((loaders.train, problem.train), (loaders.validation, problem.validation)):
        pictures = [loader.dataset[place] for place in range(len(part))]
        assert len(loader.dataset) == len(part)  # type: ignore[arg-type] # its Dataset has no length
        assert part.targets.tolist() == [target for _, target in pictures]
        theirs = torch.stack([x for x, _ in pictures])
        assert float((own.backbone.preprocessing.normalize(part.pixels[:]) - theirs).abs().mean()) < 0.02
