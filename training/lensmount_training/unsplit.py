"""What keeps the pictures of a class from being divided, in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lensmount.errors import InvalidInputError
from lensmount_training.data.dataset import Dataset

# Of near-duplicates that keep pictures together.
NAMED = 3


def too_few_groups(dataset: Dataset, label: int, units: int) -> InvalidInputError:
    """A class whose pictures belong together by the data's own words, but for so many units."""
    message = f"the pictures of this class are of {units} group{'s' * (units != 1)}, at least 3 are needed"
    fix = "add pictures that were taken apart from these, or give --group-by none if they are not alike"
    return InvalidInputError(message, field="data", value=dataset.labels[label], fix=fix)


def too_much_alike(dataset: Dataset, label: int, units: int, together: Sequence[Collection[str]]) -> InvalidInputError:
    """A class whose pictures are near-duplicates, but for so many units."""
    pictures = sum(label in picture.labels for picture in dataset.pictures)
    left = f"of {pictures} pictures {units} can be parted, at least 3 are needed"
    fix = "add pictures that were taken apart from these; `lensmount audit` shows which are alike"
    message = f"{_alike(dataset, label, together)}: {left}"
    return InvalidInputError(message, field="data", value=dataset.labels[label], fix=fix)


def missing_class(dataset: Dataset, label: int, where: str, together: Sequence[Collection[str]]) -> InvalidInputError:
    """A class that is not in a part, whatever the order of the pictures."""
    alike = _alike(dataset, label, together)
    message = f"the class comes to be missing from the {where}{alike and f': {alike}'}"
    fix = "add pictures of it, give another --seed, or leave the class out"
    return InvalidInputError(message, field="data", value=dataset.labels[label], fix=fix)


def _alike(dataset: Dataset, label: int, together: Sequence[Collection[str]]) -> str:
    """The largest set of near-duplicates that has pictures of the class; "" where there is none."""
    own = {picture.file for picture in dataset.pictures if label in picture.labels}
    files = max((sorted(each) for each in together if own.intersection(each)), key=len, default=[])
    rest = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return f"near-duplicates stay together ({', '.join(files[:NAMED])}{rest})" if files else ""
