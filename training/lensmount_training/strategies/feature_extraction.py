"""Feature extraction: the whole backbone frozen, a linear head on its pooled features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_training.context import Context
from lensmount_training.features import PLAIN, check_views, pooled
from lensmount_training.strategies.descent import descend
from lensmount_training.strategies.feed import PooledFeed
from lensmount_training.strategies.learner import Group, Learner
from lensmount_training.strategies.losses import Loss
from lensmount_training.strategies.pixel_feed import Feeds
from lensmount_training.strategies.probe import Examples, Probe, Scale, check_finite, fit_probe
from lensmount_training.strategies.schedule import Schedule, check_share
from lensmount_training.strategies.strategy import Problem, Settings, Trained, settings_of


@dataclass(frozen=True)
class FeatureExtraction:
    """Costs a served frame nothing but one small matrix product.

    The head "probe" is logistic regression, solved in seconds; "dropout" is trained by gradient descent with a share
    `dropout` of the features left out at random.
    """

    name: ClassVar[str] = "features"

    views: tuple[str, ...] = ("identity", "hflip")
    head: Literal["probe", "dropout"] = "probe"
    dropout: float = 0.3
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=10, learning_rate=3e-3))

    def __post_init__(self) -> None:
        """Raise InvalidInputError for a head that does not exist or a share that can not be dropped."""
        if self.head not in {"probe", "dropout"}:
            fix = "choose from probe, dropout"
            raise InvalidInputError("no such head", field="head", value=self.head, fix=fix)
        check_share("dropout", self.dropout)

    def check(self, backbone: Backbone) -> None:
        """Raise InvalidInputError for what does not fit the backbone, before anything is trained."""
        check_views(backbone, self.views)

    def train(self, problem: Problem, context: Context) -> Trained:
        """Compute features once, find the head."""
        if self.head == "dropout":
            return self._descended(problem, context)
        probe = probed(problem, self.views, Loss.of(problem, weighted=self.schedule.class_weights), context)
        settings: Settings = {
            "views": ",".join(self.views),
            "head": self.head,
            "class_weights": self.schedule.class_weights,
            "weight_decay": probe.decay,
        }
        return _trained(problem, probe.weight, probe.bias, settings, {})

    def _descended(self, problem: Problem, context: Context) -> Trained:
        """The head on standardised features, so that one learning rate suits all of them and every backbone."""
        backbone = problem.backbone
        train, seen = (
            pooled(backbone, own, views, context)
            for own, views in ((problem.train, self.views), (problem.validation, PLAIN))
        )
        check_finite(train)
        scale = Scale.of(train.flatten(0, 1))
        feeds = Feeds(
            PooledFeed(scale.standardise(train).float(), problem.train.targets, backbone.device, self.dropout),
            PooledFeed(scale.standardise(seen).float(), problem.validation.targets, backbone.device),
        )
        layer = _zeros(backbone, len(problem.labels))
        learner = Learner(layer, (Group("head", self.schedule.learning_rate, tuple(layer.parameters())),))
        fit = descend(learner, feeds, self.schedule, problem, context, settings_of(self))
        with torch.no_grad():
            weight, bias = scale.fold(layer.weight.cpu(), layer.bias.cpu())
        return _trained(problem, weight, bias, settings_of(self), {"best_epoch": fit.epoch})


def _zeros(backbone: Backbone, labels: int) -> nn.Linear:
    """A layer of zeros; made on no device first, so that nobody's random numbers are drawn."""
    layer = nn.Linear(backbone.features, labels, device="meta").to_empty(device=backbone.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def probed(problem: Problem, views: tuple[str, ...], loss: Loss, context: Context) -> Probe:
    """Logistic regression on the pooled features of every view."""
    backbone, targets = problem.backbone, problem.train.targets
    features = pooled(backbone, problem.train, views, context)
    train = Examples(features.flatten(0, 1), targets.repeat_interleave(len(views), 0))
    seen = pooled(backbone, problem.validation, PLAIN, context)
    return fit_probe(train, Examples(seen[:, 0], problem.validation.targets), loss)


def _trained(problem: Problem, weight: Tensor, bias: Tensor, settings: Settings, metrics: dict[str, float]) -> Trained:
    backbone = problem.backbone
    own_weight, own_bias = weight.to(backbone.device), bias.to(backbone.device)

    def forward(x: Tensor) -> Tensor:
        return F.linear(backbone.pool(backbone.forward_features(x)), own_weight, own_bias)

    tensors = {f"{backbone.classifier}.weight": weight, f"{backbone.classifier}.bias": bias}
    return Trained(tensors, forward, settings, metrics=metrics)
