"""COCO: every annotated box is a picture of its own; without boxes the whole picture has the annotated categories.

The format: https://cocodataset.org/#format-data. Pictures are found below the folder of the file, or beside a folder
`annotations` that it lies in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel

from lensmount_training.data.assembling import Index, assemble
from lensmount_training.data.crops import Box, Part, list_parts
from lensmount_training.data.documents import understood
from lensmount_training.data.files import read_file
from lensmount_training.data.finding import Finder
from lensmount_training.data.listing import Entry, Listing, Skipped

_ANNOTATIONS = "annotations"


class _Image(BaseModel):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        return (self.width, self.height) if self.width and self.height else None


class _Category(BaseModel):
    id: int | str
    name: str


class _Annotation(BaseModel):
    image_id: int | str
    category_id: int | str
    bbox: list[float] | None = None
    iscrowd: bool = False


class _Coco(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


_Named = tuple[str, _Annotation]


def is_coco(document: object) -> bool:
    """Whether a JSON document is one of COCO's by its keys."""
    return isinstance(document, dict) and {"images", "annotations", "categories"} <= document.keys()


def list_coco(path: Path, document: object, margin: float = 0.0) -> Listing:
    """List the boxes, or the pictures, of the COCO document in `path`.

    `margin` is what is added to a box on each side, as a share of its width and height. What can not be used is
    skipped. Raises InvalidInputError for what is no COCO, and when nothing is left.
    """
    coco = understood(_Coco, document, "COCO")
    folder = path.parent.parent if path.parent.name == _ANNOTATIONS else path.parent
    index, finder = Index(path, folder, "coco"), Finder(folder)
    boxed = any(annotation.bbox for annotation in coco.annotations)
    annotated, lost = _by_image(coco)
    multiple = not boxed and any(len(_categories(own)) > 1 for own in annotated.values())
    found: list[Part | Entry | Skipped] = [*lost]
    for image in coco.images:
        file, own = finder.find(image.file_name), annotated[image.id]
        if isinstance(file, str):
            found.append(Skipped(image.file_name, file))
        elif boxed:
            found.extend(_parts(file.relative_to(folder).as_posix(), file, image, own))
        else:
            found.append(_whole(file.relative_to(folder).as_posix(), file, own, multiple=multiple))
    labels = {label for own in annotated.values() for label in _categories(own)}
    return assemble(index, "multi_label" if multiple else "single_label", labels, list_parts(found, margin))


def _by_image(coco: _Coco) -> tuple[dict[int | str, list[_Named]], list[Skipped]]:
    """Annotations by image with the names of their categories, and those that belong to nothing."""
    names = {category.id: category.name.strip() for category in coco.categories}
    found: dict[int | str, list[_Named]] = {image.id: [] for image in coco.images}
    lost: list[Skipped] = []
    for annotation in coco.annotations:
        if annotation.image_id not in found:
            lost.append(Skipped(f"an annotation of image {annotation.image_id}", "no such image in the file"))
        elif annotation.category_id not in names:
            what = f"an annotation of image {annotation.image_id}"
            lost.append(Skipped(what, f"no category {annotation.category_id} in the file"))
        else:
            found[annotation.image_id].append((names[annotation.category_id], annotation))
    return found, lost


def _categories(annotations: Sequence[_Named]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(category for category, _ in annotations))


def _parts(name: str, path: Path, image: _Image, annotations: Sequence[_Named]) -> Iterator[Part | Skipped]:
    if not annotations:
        yield Skipped(name, "no box in it")
    for category, annotation in annotations:
        if annotation.iscrowd:
            yield Skipped(name, f"a crowd of {category} in one box")
        elif annotation.bbox is None or len(annotation.bbox) != 4:
            yield Skipped(name, f"an annotation of {category} without a box")
        else:
            left, top, width, height = annotation.bbox
            yield Part(name, path, Box(left, top, width, height, image.size), (category,))


def _whole(name: str, path: Path, annotations: Sequence[_Named], *, multiple: bool) -> Entry | Skipped:
    labels = _categories(annotations)
    return Entry(name, labels, lambda: read_file(path)) if labels or multiple else Skipped(name, "no annotation")
