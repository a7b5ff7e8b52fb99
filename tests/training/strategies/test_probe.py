"""The probe is logistic regression: its solution equals scikit-learn's, and the layer needs no standardised input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from lensmount.errors import InvalidInputError
from lensmount_training.strategies import probe
from lensmount_training.strategies.losses import Loss
from lensmount_training.strategies.probe import Examples, fit_probe

EVEN = Loss("single_label", torch.ones(3))


def clusters(count: int, seed: int, spread: float = 1.0) -> Examples:
    """Three overlapping clouds in 20 dimensions of very different scale."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(count) % 3
    cloud = centres[targets] + spread * torch.randn(count, 20, generator=random)
    return Examples(cloud * torch.logspace(-1, 1, 20) + 5, targets)


def test_the_solution_is_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    decay = 0.01
    monkeypatch.setattr(probe, "DECAYS", (decay,))
    train = clusters(150, seed=1)
    weights = torch.tensor([1.0, 2.0, 0.5])
    found = fit_probe(train, clusters(30, seed=2), Loss("single_label", weights))

    x = train.features.double().numpy()
    standard = (x - x.mean(0)) / x.std(0)
    share = weights.numpy()[train.targets.numpy()]
    oracle = LogisticRegression(C=1 / (decay * float(share.sum())), tol=1e-10, max_iter=10_000)
    oracle.fit(standard, train.targets.numpy(), sample_weight=share)
    expected = oracle.predict_proba(standard)
    got = F.linear(train.features, found.weight, found.bias).softmax(1)
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-3)


def test_for_multi_label_every_label_is_a_logistic_regression_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    decay = 0.01
    monkeypatch.setattr(probe, "DECAYS", (decay,))
    one = clusters(150, seed=1, spread=2.0)
    labels = torch.stack([one.targets == 0, one.targets != 1], 1).float()
    train = Examples(one.features, labels)
    found = fit_probe(train, train, Loss("multi_label", torch.tensor([2.0, 0.5])))

    x = one.features.double().numpy()
    standard = (x - x.mean(0)) / x.std(0)
    got = F.linear(one.features, found.weight, found.bias).sigmoid()
    for label, weight in enumerate((2.0, 0.5)):
        truth = labels[:, label].numpy()
        oracle = LogisticRegression(C=1 / (decay * len(x)), tol=1e-10, max_iter=10_000)
        oracle.fit(standard, truth, sample_weight=np.where(truth == 1, weight, 1))
        np.testing.assert_allclose(got[:, label].numpy(), oracle.predict_proba(standard)[:, 1], atol=2e-3)
    assert 0.5 < found.validation_accuracy <= 1


def test_the_decay_is_chosen_on_the_validation_pictures() -> None:
    few, many = clusters(12, seed=3, spread=3.0), clusters(600, seed=4, spread=3.0)
    strong = fit_probe(few, clusters(300, seed=5, spread=3.0), EVEN)
    weak = fit_probe(many, many, EVEN)
    assert strong.decay > weak.decay


def test_validation_accuracy_is_that_of_the_layer() -> None:
    validation = clusters(90, seed=6, spread=2.0)
    found = fit_probe(clusters(150, seed=1, spread=2.0), validation, EVEN)
    right = F.linear(validation.features, found.weight, found.bias).argmax(1) == validation.targets
    assert found.validation_accuracy == pytest.approx(float(right.double().mean()))
    assert 0.6 < found.validation_accuracy < 1


def test_constant_features_do_no_harm() -> None:
    train, validation = clusters(150, seed=1), clusters(90, seed=2)
    padded = [
        Examples(torch.cat([own.features, torch.full((len(own.targets), 2), 3.0)], 1), own.targets)
        for own in (train, validation)
    ]
    found = fit_probe(padded[0], padded[1], EVEN)
    assert bool(torch.isfinite(found.weight).all())
    assert float(found.weight[:, 20:].abs().max()) < 1e-6
    assert found.validation_accuracy > 0.9


def test_features_that_are_all_zero_give_a_head_that_is_finite() -> None:
    nothing = Examples(torch.zeros(9, 4), torch.arange(9) % 3)
    assert bool(torch.isfinite(fit_probe(nothing, nothing, EVEN).weight).all())


def test_features_that_are_no_numbers_are_refused() -> None:
    train = clusters(30, seed=1)
    train.features[3, 3] = torch.nan
    with pytest.raises(InvalidInputError, match="not finite") as caught:
        fit_probe(train, clusters(30, seed=2), EVEN)
    assert caught.value.field == "weights"
    assert caught.value.fix


def test_the_same_input_gives_the_same_bits() -> None:
    first, second = (fit_probe(clusters(90, 1), clusters(30, 2), EVEN) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
