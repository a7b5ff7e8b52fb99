"""A look at two thousand pictures before anything is trained on them."""

from __future__ import annotations

import time

from lensmount_training.audit.auditing import audit
from lensmount_training.bench.case import Case, Known
from lensmount_training.bench.material import dataset_of
from lensmount_training.bench.setting import Setting
from lensmount_training.context import Context
from lensmount_training.progress import Progress

PICTURES = 2000
AUDIT = Known("audit", f"an audit of {PICTURES:,} pictures, from the folder to what was found, nothing cached", 90)


def measure(setting: Setting, progress: Progress) -> Case:
    """The whole audit, the reading and the features that it needs included."""
    labels = len(setting.source.files)
    folder = setting.source.write_classes(setting.scratch / "audit", labels, -(-PICTURES // labels))
    bar = progress.bar(AUDIT.name, setting.rounds)
    seconds = []
    for _ in range(setting.rounds):
        cache = setting.fresh("new-cache")
        start = time.perf_counter()
        audit(dataset_of(folder, setting.backbone, cache), setting.backbone, Context(cache=cache))
        seconds.append(time.perf_counter() - start)
        bar.advance()
    return AUDIT.alone(seconds)
