"""Feature extraction: the whole backbone frozen, a linear head on its pooled features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from lensmount_training.context import Context
from lensmount_training.features import PLAIN, pooled
from lensmount_training.strategies.probe import Examples, fit_probe
from lensmount_training.strategies.strategy import Problem, Trained


@dataclass(frozen=True)
class FeatureExtraction:
    """Costs a served frame nothing but one small matrix product."""

    name: ClassVar[str] = "features"

    views: tuple[str, ...] = ("identity", "hflip")

    def train(self, problem: Problem, context: Context) -> Trained:
        """Compute features once, solve for the head."""
        backbone = problem.backbone
        features = pooled(backbone, problem.train, self.views, context)
        train = Examples(features.flatten(0, 1), problem.train.targets.repeat_interleave(len(self.views)))
        seen = pooled(backbone, problem.validation, PLAIN, context)
        probe = fit_probe(train, Examples(seen[:, 0], problem.validation.targets), problem.class_weights)
        weight, bias = probe.weight.to(backbone.device), probe.bias.to(backbone.device)

        def forward(x: Tensor) -> Tensor:
            return F.linear(backbone.pool(backbone.forward_features(x)), weight, bias)

        return Trained(
            tensors={f"{backbone.classifier}.weight": probe.weight, f"{backbone.classifier}.bias": probe.bias},
            forward=forward,
            settings={"views": ",".join(self.views), "weight_decay": probe.decay},
        )
