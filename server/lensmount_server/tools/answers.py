"""Two packages asked about the same pictures: the golden ones of both."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lensmount_adapters.adapter import fit
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.outcome import decide, probabilities
from lensmount_adapters.package import Package
from lensmount_adapters.pictures import Pixels
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.runtime import Engine
from lensmount_server.frames import Still


@dataclass(frozen=True)
class Answers:
    """`agreeing` of `pictures` decisions are the same; `largest_change` of a probability is that of `label`.

    Only labels that both packages have are compared; "" where they have none in common.
    """

    pictures: int
    agreeing: int
    largest_change: float
    label: str


def compare_answers(before: Package, after: Package, backbone: Backbone) -> Answers:
    """Ask both, in fp32. Raises LensmountError for a package that does not fit the backbone."""
    pictures = (*before.golden.pictures, *after.golden.pictures)
    a, b = (_scores(package, backbone, pictures) for package in (before, after))
    agreeing = sum(_decision(before, x) == _decision(after, y) for x, y in zip(a, b, strict=True))
    labels = [label for label in before.manifest.labels if label in after.manifest.labels]
    changes = [(abs(y[label] - x[label]), label) for x, y in zip(a, b, strict=True) for label in labels]
    change, label = max(changes, default=(0.0, ""))
    return Answers(len(pictures), agreeing, change, label)


def _scores(package: Package, backbone: Backbone, pictures: tuple[Pixels, ...]) -> list[dict[str, float]]:
    """Probabilities by label, for each picture."""
    adapter, engine = fit(package, backbone), Engine(backbone)
    rows: list[Tensor] = [engine.run([Job(Still(pixels), (adapter,))])[0][0] for pixels in pictures]
    manifest = package.manifest
    return [dict(zip(manifest.labels, probabilities(manifest, row).tolist(), strict=True)) for row in rows]


def _decision(package: Package, scores: dict[str, float]) -> frozenset[str]:
    return frozenset(decide(package.manifest, tuple(scores.values())))
