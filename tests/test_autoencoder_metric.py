"""The metric that painted damage teaches."""

import numpy as np
import pytest
import torch

from autoencoder.features import make_features
from autoencoder.memory import Whitening
from autoencoder.metric import DAMAGED_SHARE, fit_metric, measure_residuals


def test_the_metric_counts_directions_as_they_tell_damage_from_good_patches():
    generator = torch.Generator().manual_seed(3)
    good = torch.randn(4000, 4, generator=generator) * torch.tensor([5.0, 1.0, 1.0, 1.0])
    damaged = torch.randn(4000, 4, generator=generator) * torch.tensor([5.0, 1.0, 4.0, 0.3])
    matrix = fit_metric(good, damaged, 3)
    assert matrix.shape == (4, 3)
    strength = matrix.square().sum(dim=1).sqrt()
    assert strength.argmax() == 2 and strength[2] > 10 * strength[[0, 1, 3]].max()
    assert matrix[:, 1:].abs().max() < 0.1 * matrix.abs().max()  # the strongest direction first
    assert (good @ matrix).square().sum(dim=1).mean() == pytest.approx(1, rel=1e-3)


def test_no_picture_is_compared_with_itself_and_damage_lies_where_it_was_painted():
    features = make_features(["bank"], 1, 4)
    generator = np.random.default_rng(4)
    noise = [
        (number, torch.from_numpy(generator.normal(0.5, 0.05, (1, 1, 48, 48))).float())
        for number in range(3)
    ]
    whitening = Whitening(torch.zeros(features.width), torch.eye(features.width))
    cells = [features(picture)[0].flatten(start_dim=1).T for _, picture in noise]
    memory, owners = torch.cat(cells), torch.arange(3).repeat_interleave(len(cells[0]))
    measured = measure_residuals(noise, features, whitening, memory, owners, generator)
    good, damaged = (part.norm(dim=1) for part in measured)
    assert good.min() > 0 and len(damaged) > 20
    assert damaged.median() > 1.5 * good.median() and DAMAGED_SHARE > 0
    alone = measure_residuals(
        noise[:1], features, whitening, cells[0], owners[: len(cells[0])] * 0, generator
    )
    assert [len(part) for part in alone] == [0, 0]
