"""Small pictures inside a page: JPEG as data URIs, so that the page is one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from lensmount.errors import LensmountError
from lensmount_training.audit.looks import reduced
from lensmount_training.context import Context
from lensmount_training.data.ahead import ahead
from lensmount_training.data.dataset import Dataset

SIDE, QUALITY = 96, 70


def thumbnails(dataset: Dataset, files: Sequence[str], context: Context) -> dict[str, str]:
    """Data URIs by file, at most 96 pixels a side; files that can not be read are not in it."""
    bar = context.progress.bar("making the page", len(files))
    found: dict[str, str] = {}
    for file, uri in ahead(lambda file: _thumbnail(dataset, file), files):
        bar.advance()
        if uri:
            found[file] = uri
    return found


def _thumbnail(dataset: Dataset, file: str) -> str:
    if file not in dataset.entries:
        return ""
    try:
        picture = reduced(dataset.original(file), SIDE)
    except (LensmountError, OSError):
        return ""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
