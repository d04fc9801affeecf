"""The metric that painted damage teaches, and the statistics of raw patches."""

import numpy as np
import onnxruntime
import pytest
import torch

from autoencoder.features import make_features
from autoencoder.learn_patches import draw_patches, fit_statistics
from autoencoder.memory import Whitening
from autoencoder.metric import DAMAGED_SHARE, fit_metric, measure_residuals
from autoencoder.patch_statistics import PATCH, PATCH_TENSORS, PatchStatistics, fits, patches_of


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


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_the_pixels_around_each_pixel(channels):
    picture = torch.arange(channels * 90.0).reshape(1, channels, 9, 10)
    patches = patches_of(picture)
    assert patches.shape == (1, channels * PATCH**2, 3, 4)
    own = patches[0, :, 1, 2].reshape(PATCH, PATCH, channels)
    assert torch.equal(own.permute(2, 0, 1), picture[0, :, 1 : 1 + PATCH, 2 : 2 + PATCH])


def test_patch_statistics_find_what_only_brightness_tells_in_each_cluster():
    generator = np.random.default_rng(5)

    def picture(level):
        return torch.from_numpy(generator.normal(level, 0.02, (1, 1, 32, 32))).float()

    levels = (0.3, 0.7)
    drawn = [draw_patches(picture(levels[number % 2]), 8, generator) for number in range(8)]
    statistics = fit_statistics(drawn, [number % 2 for number in range(8)], 2, cell=4)
    both = torch.cat([picture(level) for level in levels])
    spots = both.clone()
    spots[:, :, 8:16, 16:24] += 0.2
    clusters = torch.arange(2)
    good, found = statistics(both, clusters), statistics(spots, clusters)
    assert good.shape == (2, 1, 8, 8) and good.mean().abs() < 1e-5
    for plane in found:
        row, column = divmod(int(plane.argmax()), 8)
        assert row in (2, 3) and column in (4, 5)
    assert found.amax(dim=(1, 2, 3)).min() > 5 * good.abs().max()
    assert torch.allclose(statistics(both[1:], clusters[1:]), good[1:], atol=1e-5)


def test_patch_statistics_are_the_same_in_onnx(tmp_path):
    generator = torch.Generator().manual_seed(6)
    size = PATCH**2
    statistics = PatchStatistics(
        torch.rand(2, size, generator=generator), torch.randn(2, size, size, generator=generator), 4
    )
    inputs = (torch.rand(3, 1, 16, 24, generator=generator), torch.tensor([1, 0, 1]))
    expected = statistics(*inputs)
    path = tmp_path / "patches.onnx"
    torch.onnx.export(
        statistics.eval(), inputs, path, dynamo=True, opset_version=18, external_data=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (tensor.numpy() for tensor in inputs))))
    assert np.abs(found - expected.numpy()).max() < 1e-4 * expected.abs().max()


def test_only_statistics_of_this_shape_fit():
    size = PATCH**2
    state = PatchStatistics(torch.zeros(2, size), torch.zeros(2, size, size), 4).state()
    assert fits(state, 2, 1)
    assert not fits(state, 1, 1) and not fits(state, 2, 3) and not fits([], 2, 1)
    assert not fits({PATCH_TENSORS[0]: state[PATCH_TENSORS[0]]}, 2, 1)
