import numpy as np
import pytest

from autoencoder import trivial_scores
from autoencoder.first_jump import first_jump
from autoencoder.trivial_scores import PATCH, MeanPicture, PatchPCA, local_contrast
from common.errors import UserError


def stripes(seed, size=(40, 56), channels=1):
    """A pattern of stripes at any phase, with a little noise."""
    generator = np.random.default_rng(seed)
    rows = 40 * np.sin(np.arange(size[0]) / 2 + generator.uniform(0, 6))[:, None]
    return (128 + rows + generator.normal(0, 2, (channels, *size))).astype(np.float32)


def with_spot(image, amount=60):
    spot = image.copy()
    spot[:, 20:25, 30:35] += amount
    return spot


def test_local_contrast_is_that_of_the_strongest_place():
    flat = np.full((3, 30, 30), 90, np.float32)
    assert local_contrast(flat) < 1e-3
    for sign in (-1, 1):
        spot = flat.copy()
        spot[1, 12:18, 12:18] += sign * 50
        assert 30 < local_contrast(spot) < 50
    assert local_contrast(flat + np.linspace(0, 30, 30, dtype=np.float32)) < 5  # a slow slope


@pytest.mark.parametrize("channels", [1, 3])
def test_the_mean_picture_shows_where_a_picture_differs(channels):
    good = [np.full((channels, 40, 50), level, np.float32) for level in (90, 110)]
    mean = MeanPicture(iter(good))
    assert np.array_equal(mean.mean, np.full((channels, 40, 50), 100))
    assert mean.score(mean.mean) == 0
    spot = mean.mean.copy()
    spot[-1, 20:26, 30:36] -= 40
    found = mean.difference(spot)
    assert found.shape == (40, 50) and 15 < found[22:24, 32:34].min() < 40 and found[:8].max() < 1
    larger = np.repeat(np.repeat(spot, 2, axis=1), 2, axis=2)
    assert mean.difference(larger).shape == (80, 100)
    assert mean.score(larger) == pytest.approx(mean.score(spot), rel=0.01)


def test_components_of_patches_express_stripes_but_no_spot():
    model = PatchPCA([stripes(seed) for seed in range(6)])
    assert len(model.components) <= 4  # two phases of the stripes, and perhaps noise
    good, defective = stripes(50), with_spot(stripes(50))
    residual = model.residual(defective)
    assert residual.shape == (40, 56)
    assert np.hypot(*(np.array(np.unravel_index(residual.argmax(), residual.shape)) - (22, 32))) < 6
    assert model.score(good) < 6 < 15 < model.score(defective)


def test_the_residual_is_that_of_each_patch_projected(monkeypatch):
    pictures = [stripes(seed, channels=3) for seed in range(3)]
    model = PatchPCA(pictures)
    image = with_spot(pictures[0])
    y, x = 18, 27
    top, left = y - PATCH // 2, x - PATCH // 2
    patch = (image[:, top : top + PATCH, left : left + PATCH] - model.mean).ravel()
    axes = model.components.numpy().reshape(len(model.components), -1)
    expected = np.sqrt(np.mean((patch - axes.T @ (axes @ patch)) ** 2))
    monkeypatch.setattr(trivial_scores, "_blur", lambda plane, sigma: plane)
    assert model.residual(image)[y, x] == pytest.approx(expected, rel=1e-3)


def test_no_picture_and_other_channels_are_refused():
    for build in (MeanPicture, PatchPCA):
        with pytest.raises(UserError, match="found no good picture"):
            build([])
    with pytest.raises(UserError, match="found a picture of 3 channels, expected 1"):
        MeanPicture([stripes(0)]).score(stripes(0, channels=3))
    with pytest.raises(UserError, match=r"found a picture of \(4, 9\)"):
        PatchPCA([stripes(0, (4, 9))])


def test_the_first_jump_lies_between_good_and_defective():
    good = np.linspace(1, 2, 30)
    assert first_jump([*good, 4.0, 4.1, 9.0]) == pytest.approx(3.0)
    shuffled = np.random.default_rng(0).permutation([*good, 4.0, 4.1, 9.0])
    assert first_jump(shuffled) == pytest.approx(3.0)
    # the first one of two, and only where it is wide enough
    assert first_jump([*good, 4.0, 9.0], factor=100) == pytest.approx(6.5)
    assert first_jump([*good, 4.0, 9.0], factor=200) is None


@pytest.mark.parametrize(
    "scores", [np.linspace(0, 1, 50), np.full(50, 0.3), [*np.linspace(0, 1, 19), 50.0], [1.0], []]
)
def test_without_a_jump_there_is_no_threshold(scores):
    assert first_jump(scores) is None


def test_scores_that_are_equal_jump_at_the_first_that_is_not():
    assert first_jump([*np.full(25, 0.5), 0.7]) == pytest.approx(0.6)


def test_a_gap_among_the_lowest_is_none_and_the_base_can_be_smaller():
    scores = [*np.linspace(0, 1, 10), *np.linspace(30, 31, 30)]
    assert first_jump(scores) is None
    assert first_jump(scores, base=10) == pytest.approx(15.5)
    assert first_jump(scores[:11], base=10) == pytest.approx(15.5)


def test_good_pictures_alone_seldom_jump():
    generator = np.random.default_rng(3)
    found = [first_jump(generator.normal(size=100)) is not None for _ in range(200)]
    assert np.mean(found) < 0.2


@pytest.mark.parametrize(
    ("scores", "settings", "text"),
    [
        ([0.1, float("nan")], {}, "found scores that are not finite"),
        ([0.1], {"base": 1}, "--jump_base: found 1"),
        ([0.1], {"factor": 0.0}, "--jump_factor: found 0"),
    ],
)
def test_wrong_input_of_the_first_jump_is_refused(scores, settings, text):
    with pytest.raises(UserError, match=text):
        first_jump(scores, **settings)
