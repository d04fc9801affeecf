"""The mixtures of raw patches, and the statistics of patches that earlier libraries have."""

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.mixture import GaussianMixture

from autoencoder import patch_mixtures, patch_statistics
from autoencoder.learn_patches import PATCHES_PER_GAUSSIAN, draw_patches, fit_mixtures
from autoencoder.patch_mixtures import (
    DAMAGED,
    FINE,
    OF_MIXTURES,
    PATCH,
    PatchMixture,
    make_mixtures,
    patches_around,
)
from autoencoder.patch_statistics import PATCH_TENSORS, PatchStatistics

LEVELS = (0.3, 0.7)  # of the pictures of two clusters
SPREAD = 0.02


def picture(level, generator, channels=1):
    """Noise around a level: (1, C, 32, 32)."""
    return torch.from_numpy(generator.normal(level, SPREAD, (1, channels, 32, 32))).float()


@pytest.fixture(scope="module")
def mixtures():
    """Mixtures of two clusters, cells of 4 pixels."""
    generator = np.random.default_rng(5)
    labels = [number % 2 for number in range(12)]
    drawn = [draw_patches(picture(LEVELS[label], generator), 300, generator) for label in labels]
    return fit_mixtures(drawn, labels, 4, 42)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("step", "side"), [(1, PATCH), (2, PATCH), (1, patch_statistics.PATCH)])
def test_patches_are_the_pixels_around_each_pixel(channels, step, side):
    image = torch.arange(channels * 80.0).reshape(1, channels, 8, 10)
    patches = patches_around(image, step, side)
    assert patches.shape == (1, 80 // step**2, channels * side**2)
    row, column = (step * number + step // 2 for number in (2, 1))
    own = patches[0, 2 * (10 // step) + 1].reshape(side, side, channels).permute(2, 0, 1)
    padded = np.pad(image[0].numpy(), ((0, 0), *[(side // 2,) * 2] * 2), mode="edge")
    assert np.array_equal(own, padded[:, row : row + side, column : column + side])


def test_a_mixture_is_scikit_learns_and_tells_the_likelihood(mixtures):
    generator = np.random.default_rng(6)
    vectors = patches_around(picture(LEVELS[1], generator), 1)
    state = {
        name: tensor[1].double().numpy()
        for name, tensor in mixtures.mixtures[FINE].state_dict().items()
    }
    expected = GaussianMixture(len(state["mean"]))
    expected.means_, expected.precisions_cholesky_ = state["mean"], state["matrix"]
    # the weights are what the constants leave
    constants = patch_mixtures.log_density_at_mean(torch.from_numpy(state["matrix"])).numpy()
    expected.weights_ = np.exp(state["log_weight"] - constants)
    assert expected.weights_.sum() == pytest.approx(1, abs=1e-4)
    found = mixtures.mixtures[FINE](vectors, torch.tensor([1]))[0]
    assert np.allclose(found, expected.score_samples(vectors[0].double().numpy()), atol=1e-2)


def test_each_map_finds_what_only_brightness_tells_in_each_cluster(mixtures):
    generator = np.random.default_rng(7)
    both = torch.cat([picture(level, generator) for level in LEVELS])
    spots = both.clone()
    spots[:, :, 8:16, 16:24] += 0.2
    clusters = torch.arange(2)
    good, found = mixtures(both, clusters), mixtures(spots, clusters)
    assert mixtures.kinds == OF_MIXTURES and good.shape == (2, 3, 8, 8)
    assert good.mean(dim=(2, 3)).abs().max() < 1e-3
    for plane in found.flatten(end_dim=1):
        row, column = divmod(int(plane.argmax()), 8)
        assert row in (2, 3) and column in (4, 5)
    assert (found.amax(dim=(2, 3)) > 5 * good.abs().amax(dim=(2, 3))).all()
    assert torch.allclose(mixtures(both[1:], clusters[1:]), good[1:], atol=1e-2)
    swapped = mixtures.mixtures[FINE](patches_around(both, 2), 1 - clusters)
    assert (swapped < mixtures.mixtures[FINE](patches_around(both, 2), clusters)).all()


def test_equal_seeds_give_equal_mixtures_and_few_patches_few_gaussians():
    def fit(counts, is_painted=True):
        generator = np.random.default_rng(8)
        drawn = [
            draw_patches(picture(0.5, generator), count, generator, is_painted) for count in counts
        ]
        return fit_mixtures(drawn, range(len(counts)), 4, 42)

    first, second = fit([300]).state(), fit([300]).state()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    few = fit([PATCHES_PER_GAUSSIAN - 1])
    assert few.kinds == OF_MIXTURES[:2] and len(few.state()["fine.mean"][0]) == 1
    assert fit([300], is_painted=False).kinds == OF_MIXTURES[:2]
    # a cluster with many patches keeps its Gaussians beside one with few, which has its own twice
    both, vectors = fit([300, 60]), patches_around(picture(0.5, np.random.default_rng(9)), 2)
    assert both.state()["fine.mean"].shape[1] == len(first["fine.mean"][0]) == 6
    assert torch.equal(both.state()["fine.mean"][0], first["fine.mean"][0])
    found = both.mixtures[FINE](vectors, torch.tensor([1]))
    repeated = {name: tensor[1:, :1] for name, tensor in both.mixtures[FINE].state_dict().items()}
    repeated["log_weight"] = repeated["log_weight"] + np.log(6)
    assert torch.allclose(found, PatchMixture(**repeated)(vectors, None), atol=1e-3)


def test_even_pictures_have_finite_maps():
    even = torch.full((1, 1, 32, 32), 0.5)
    generator = np.random.default_rng(9)
    drawn = [draw_patches(even, 200, generator) for _ in range(2)]
    mixtures = fit_mixtures(drawn, [0, 0], 8, 42)
    assert mixtures(even).abs().max() < 1e-3
    even[:, :, 12:16, 12:16] = 1
    assert mixtures(even).isfinite().all() and mixtures(even).amax() > 10


def export(module, inputs, path):
    """What ONNX Runtime says of an exported module's output."""
    torch.onnx.export(
        module.eval(), inputs, path, dynamo=True, opset_version=18, external_data=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, dict(zip(names, (tensor.numpy() for tensor in inputs))))[0]


def make_statistics(clusters):
    """Statistics of patches by chance, as earlier libraries have them."""
    generator, size = torch.Generator().manual_seed(6), patch_statistics.PATCH**2
    tensors = (
        torch.rand(clusters, size, generator=generator),
        torch.randn(clusters, size, size, generator=generator),
    )
    return PatchStatistics(*tensors, 4)


def test_maps_of_patches_are_the_same_in_onnx(mixtures, tmp_path):
    generator = np.random.default_rng(10)
    pictures = torch.cat([picture(level, generator) for level in (0.3, 0.7, 0.5)])
    inputs = (pictures, torch.tensor([1, 0, 1]))
    for module in (mixtures, make_statistics(2)):
        with torch.inference_mode():
            expected = module(*inputs).numpy()
        found = export(module, inputs, tmp_path / "patches.onnx")
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_only_tensors_of_this_shape_fit(mixtures):
    state = mixtures.state()
    fits = patch_mixtures.fits
    assert fits(state, 2, 1) and not fits(state, 1, 1) and not fits(state, 2, 3)
    again = make_mixtures(state, 4)
    inputs = (torch.rand(2, 1, 16, 16), torch.tensor([0, 1]))
    assert again.kinds == mixtures.kinds and torch.equal(again(*inputs), mixtures(*inputs))
    without = {name: tensor for name, tensor in state.items() if not name.startswith(DAMAGED)}
    assert fits(without, 2, 1) and make_mixtures(without, 4).kinds == OF_MIXTURES[:2]
    for name in state:
        assert not fits(state | {name: state[name][:, :1]}, 2, 1) or state[name].shape[1] == 1
        assert not fits({key: value for key, value in state.items() if key != name}, 2, 1)
    repeated = torch.ones(1).expand_as(state["fine.matrix"])
    assert not fits(state | {"fine.matrix": repeated}, 2, 1) and not fits([], 2, 1)


def test_only_earlier_statistics_of_this_shape_fit():
    state, fits = make_statistics(2).state(), patch_statistics.fits
    assert (
        fits(state, 2, 1) and not fits(state, 1, 1) and not fits(state, 2, 3) and not fits([], 2, 1)
    )
    assert not fits({PATCH_TENSORS[0]: state[PATCH_TENSORS[0]]}, 2, 1)
