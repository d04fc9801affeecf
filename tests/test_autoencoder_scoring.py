"""Scores of pictures: windows, scales, normalisation, the top share and ensembles."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torch import nn
from torch.nn import functional

from autoencoder import inference
from autoencoder.calibration import Scorers, calibrate_scorers
from autoencoder.loaded import make_sources
from autoencoder.maps import NetworkMaps, ssim_map
from autoencoder.model import load_model
from autoencoder.scales import WHOLE
from autoencoder.scorer import (
    LEAST_PICTURE_SPREAD,
    PictureScorer,
    PictureStatistics,
    PlaneStatistics,
    ScoreSettings,
    plane_names,
    to_unit,
    top_count,
)
from common.errors import UserError
from evaluation.thresholds import calibrate_scores, threshold_for
from ops.filters import gaussian_window
from ops.resize import LinearResize, resize_matrix
from tests.autoencoder_models import write_checkpoint, write_kind


class SmallNetwork(nn.Module):
    """A network of two convolutions that gives a picture, with features of two levels."""

    multiple = 4

    def __init__(self, channels: int = 1, outputs: int | None = None, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.last = nn.Conv2d(4, outputs or channels, 3, padding=1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(pictures).relu())

    def encode(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(pictures).relu()
        return [first, functional.avg_pool2d(first, 2)]


def pixel_maps(seed: int = 0, kinds=("pixel",)) -> NetworkMaps:
    return NetworkMaps(SmallNetwork(seed=seed).eval(), "reconstruct", kinds, 16)


def pictures(count: int, size: tuple[int, int], seed: int = 3) -> torch.Tensor:
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(seed))


def slow_resize(image: np.ndarray, new_size: tuple[int, int]) -> np.ndarray:
    """Average an image (H, W) under triangles, value by value."""

    def weights(length: int, new: int) -> np.ndarray:
        rows = np.zeros((new, length))
        for target in range(new):
            centre = (target + 0.5) * length / new - 0.5
            for source in range(length):
                rows[target, source] = max(0, 1 - abs(source - centre) / max(1, length / new))
        return rows / rows.sum(axis=1, keepdims=True)

    return weights(image.shape[0], new_size[0]) @ image @ weights(image.shape[1], new_size[1]).T


def slow_windows(image: np.ndarray, compute, window: int, stride: int, size: int) -> np.ndarray:
    """The mean of the maps of all windows that hold a pixel, window by window."""
    height, width = image.shape
    padded = np.pad(image, ((0, window), (0, window)), "reflect")
    total, count = np.zeros_like(padded), np.zeros_like(padded)
    starts = [
        [number * stride for number in range(1 + max(0, math.ceil((length - window) / stride)))]
        for length in (height, width)
    ]
    for y in starts[0]:
        for x in starts[1]:
            part = slow_resize(padded[y : y + window, x : x + window], (size, size))
            total[y : y + window, x : x + window] += slow_resize(compute(part), (window, window))
            count[y : y + window, x : x + window] += 1
    return (total / np.maximum(count, 1))[:height, :width]


def pixel_map(network: nn.Module):
    def compute(part: np.ndarray) -> np.ndarray:
        unit = torch.tensor(part, dtype=torch.float32)[None, None]
        with torch.inference_mode():
            return (unit - network(unit).clamp(0, 1)).abs()[0, 0].double().numpy()

    return compute


@pytest.mark.parametrize("new_size", [(9, 30), (40, 13), (20, 20)])
def test_resizing_is_that_of_torch_with_antialiasing(new_size):
    images = torch.rand(2, 3, 20, 20)
    expected = functional.interpolate(images, new_size, mode="bilinear", antialias=True)
    assert torch.allclose(LinearResize((20, 20), new_size)(images), expected, atol=1e-5)


def test_resizing_to_a_size_that_divides_nothing_keeps_a_constant():
    assert torch.allclose(resize_matrix(7, 23).sum(dim=1), torch.ones(23))


@pytest.mark.parametrize("merge", ["max", "mean"])
@torch.inference_mode()
def test_a_score_is_that_of_slow_arithmetic(merge):
    settings = ScoreSettings((20, 32), merge=merge, smoothing=1.5, top_share=0.02)
    source = pixel_maps()
    scorer = PictureScorer((41, 53), [source], settings).eval()
    means, spreads = [[0.3, 0.25]], [[0.08, 0.0]]
    scorer.set_statistics(
        PlaneStatistics(torch.tensor(means), torch.tensor(spreads)),
        PictureStatistics(torch.tensor([1.5]), torch.tensor([0.75])),
    )
    image = pictures(1, (41, 53))
    heatmap, score, cluster = scorer(image)

    maps = [
        slow_windows(
            image[0, 0].double().numpy(), pixel_map(source.network), window, window // 2, 16
        )
        for window in settings.windows
    ]
    z = [(maps[0] - 0.3) / 0.08, (maps[1] - 0.25) / 1e-4]
    plane = np.max(z, axis=0) if merge == "max" else np.mean(z, axis=0)
    weights = np.array(gaussian_window(1.5)) / np.sum(gaussian_window(1.5))
    for axis in (0, 1):
        plane = correlate1d(plane, weights, axis, mode="nearest")
    top = np.sort(plane.ravel())[::-1][: math.ceil(0.02 * 41 * 53)].mean()

    def squash(value):
        return 1 / (1 + np.exp(-np.arcsinh((value - 1.5) / 0.75)))

    assert np.allclose(heatmap[0, 0], squash(plane), atol=2e-4)
    assert float(score) == pytest.approx(squash(top), abs=1e-5)
    assert cluster.tolist() == [0] and cluster.dtype == torch.int64


@torch.inference_mode()
def test_windows_of_a_picture_in_parts_are_those_at_once(monkeypatch):
    settings, images = ScoreSettings((16,)), pictures(2, (40, 40))
    whole = PictureScorer((40, 40), [pixel_maps()], settings)
    monkeypatch.setattr("autoencoder.scales.MOST_PIXELS", 16 * 16 * 3)
    parts = PictureScorer((40, 40), [pixel_maps()], settings)
    assert parts.scales[0].at_once == 3 < whole.scales[0].at_once
    assert torch.allclose(parts(images)[0], whole(images)[0], atol=1e-6)


@torch.inference_mode()
def test_a_pyramid_computes_the_whole_picture_once_at_each_scale():
    settings = ScoreSettings((16, 32), window_mode="pyramid", merge="mean", smoothing=0)
    source, image = pixel_maps(), pictures(1, (40, 64))
    scorer = PictureScorer((40, 64), [source], settings)
    compute = pixel_map(source.network)
    halved = slow_resize(image[0, 0].double().numpy(), (20, 32))
    maps = [
        compute(image[0, 0].numpy()),
        slow_resize(compute(halved), (40, 64)),
    ]
    plane = scorer.merged(scorer.planes(image, torch.tensor([0])), torch.tensor([0]))
    assert np.allclose(plane[0, 0], np.mean(maps, axis=0), atol=1e-5)


def test_top_share():
    scorer = PictureScorer((8, 10), [pixel_maps()], ScoreSettings((8,), top_share=0.05))
    plane = torch.zeros(2, 1, 8, 10)
    plane[0, 0, 0, :6] = 3.0  # six equal pixels, of which four count
    plane[1, 0, 7, 9] = 8.0
    assert scorer.top_mean(plane).tolist() == [3.0, 2.0]
    assert top_count((8, 10), 1e-9) == 1
    assert top_count((1, 1), 0.001) == 1
    assert top_count((100, 100), 0.005) == 50


@torch.inference_mode()
def test_a_picture_smaller_than_a_window_and_one_of_a_single_pixel_have_scores():
    for size in ((5, 7), (1, 1)):
        scorer = PictureScorer(size, [pixel_maps()], ScoreSettings((16, 32)))
        heatmap, score, _ = scorer(pictures(2, size))
        assert heatmap.shape == (2, 1, *size) and bool(heatmap.isfinite().all())
        assert bool(((score > 0) & (score < 1)).all())


@torch.inference_mode()
def test_without_spread_a_score_is_finite_and_still_ordered():
    scorer = PictureScorer((16, 16), [pixel_maps()], ScoreSettings((16,)))
    scorer.set_statistics(
        PlaneStatistics(torch.zeros(1, 1), torch.zeros(1, 1)),
        PictureStatistics(torch.zeros(1), torch.zeros(1)),
    )
    assert float(scorer.picture_spread) == pytest.approx(LEAST_PICTURE_SPREAD)
    images = pictures(1, (16, 16)) * torch.tensor([0.2, 0.5, 1.0])[:, None, None, None]
    scores = scorer(images)[1]
    assert bool((scores < 1).all()) and len(set(scores.tolist())) == 3


def test_sigmoid_of_asinh_is_exact_in_both_tails():
    z = torch.tensor([-1e6, -30.0, -1.0, 0.0, 0.3, 17.0, 1e4])
    exact = 1 / (1 + torch.exp(-torch.asinh(z.double())))
    assert torch.allclose(to_unit(z).double(), exact, rtol=1e-6, atol=0)
    assert float(to_unit(torch.tensor(1e6))) < 1


@torch.inference_mode()
def test_an_ensemble_of_one_is_the_model_and_one_of_three_averages_z_scores():
    settings = ScoreSettings((16, 24), smoothing=0, merge="max")
    image = pictures(2, (32, 32))
    members = [pixel_maps(seed, ("pixel", "ssim")) for seed in range(3)]
    clusters = torch.zeros(2, dtype=torch.int64)
    alone = [PictureScorer((32, 32), [member], settings) for member in members]
    ensemble = PictureScorer((32, 32), members, settings)
    planes = [scorer.planes(image, clusters) for scorer in alone]
    mean = torch.stack(planes).mean(dim=0).amax(dim=1, keepdim=True)
    assert torch.allclose(ensemble.merged(ensemble.planes(image, clusters), clusters), mean)
    same = PictureScorer((32, 32), [members[0]] * 3, settings)
    assert torch.allclose(same(image)[0], alone[0](image)[0], atol=1e-6)


@torch.inference_mode()
def test_each_picture_is_normalised_by_the_statistics_of_its_cluster():
    def router(images: torch.Tensor) -> torch.Tensor:
        return (images.mean(dim=(1, 2, 3)) > 0.5).long()

    settings, images = ScoreSettings((16,), smoothing=0), pictures(2, (16, 16))
    images[1] = images[1] * 0.2 + 0.8
    scorer = PictureScorer((16, 16), [pixel_maps()], settings, router, clusters=2)
    scorer.set_statistics(
        PlaneStatistics(torch.tensor([[0.1], [0.5]]), torch.tensor([[0.2], [0.4]])),
        PictureStatistics(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])),
    )
    heatmap, _, clusters = scorer(images)
    assert clusters.tolist() == [0, 1]
    raw = scorer.planes(images, clusters)
    expected = [to_unit(((raw[0] - 0.1) / 0.2 - 1) / 3), to_unit(((raw[1] - 0.5) / 0.4 - 2) / 4)]
    assert torch.allclose(heatmap, torch.stack(expected), atol=1e-6)


def test_ssim_of_a_picture_with_itself_is_one_and_falls_where_structure_is_lost():
    image = pictures(1, (24, 24))
    assert torch.allclose(ssim_map(image, image), torch.ones(1), atol=1e-4)
    flat = torch.full_like(image, float(image.mean()))
    assert float(ssim_map(image, flat).mean()) < 0.1
    assert bool(ssim_map(flat, flat).isfinite().all())


def test_ssim_is_that_of_the_library_that_the_loss_takes():
    from pytorch_msssim import ssim

    image, other = pictures(1, (32, 40)), pictures(1, (32, 40), seed=9) * 0.5
    inside = ssim_map(image, other)[:, :, 5:-5, 5:-5].mean()  # it leaves the border out
    assert float(inside) == pytest.approx(float(ssim(image, other, data_range=1.0)), abs=1e-5)


@torch.inference_mode()
def test_features_of_picture_and_output_differ_where_the_output_does():
    maps = NetworkMaps(SmallNetwork().eval(), "repair", ("feature_difference",), 16)
    network, image = maps.network, pictures(1, (16, 16))
    maps.output = lambda picture: torch.cat([picture[..., :8], picture[..., 8:].flip(3)], dim=3)
    found = maps(image)
    assert float(found[..., :6].abs().max()) < 1e-3 < float(found[..., 10:].mean())
    assert network is maps.network


@pytest.mark.parametrize(
    "task, kind", [("segment", "pixel"), ("reconstruct", "mask"), ("repair", "library")]
)
def test_a_map_that_the_task_cannot_give_is_refused(task, kind):
    with pytest.raises(UserError, match=f"--score {kind}: found a network of --task {task}"):
        NetworkMaps(SmallNetwork(), task, (kind,), 16)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (ScoreSettings((640,), padding="none"), "640 and --padding none: found windows of 640 pix"),
        (ScoreSettings((9000,)), "9000 and --padding reflect: found 9000 x 9000 pixels to compute"),
        (
            ScoreSettings((1,), window_mode="pyramid"),
            "1: found 9600 x 8000 pixels to compute for a picture of 600 x 500, expected a window "
            "that asks for at most 67 million",
        ),
    ],
)
def test_windows_that_do_not_fit_the_picture_are_refused_by_their_flag(settings, line):
    with pytest.raises(UserError, match=f"^--windows {line}"):
        PictureScorer((600, 500), [pixel_maps()], settings)


@pytest.mark.parametrize("share", ["0", "-0.5", "1.5", "half"])
def test_a_stride_is_a_share_above_0(share, capsys):
    with pytest.raises(SystemExit):
        inference.parse_args(["--stride_share", share])
    assert "argument --stride_share: " in capsys.readouterr().err


def test_a_stride_is_at_least_a_pixel():
    scorer = PictureScorer((16, 20), [pixel_maps()], ScoreSettings((16,), stride_share=0.01))
    assert scorer.scales[0].windows.grid == (1, 5)


@torch.inference_mode()
def test_without_windows_each_source_has_its_own():
    first, second = pixel_maps(), pixel_maps(kinds=("ssim",))
    second.windows, second.window_mode = (WHOLE, 32), "pyramid"
    scorer = PictureScorer((40, 48), [first, second], ScoreSettings())
    assert plane_names([first, second], ScoreSettings()) == ["pixel 16", "ssim whole", "ssim 32"]
    assert [type(scale).__name__ for scale in scorer.scales] == ["WindowMaps"] + ["PyramidMaps"] * 2
    image, zero = pictures(1, (40, 48)), torch.zeros(1, dtype=torch.int64)
    alone = PictureScorer((40, 48), [second], ScoreSettings((40,), window_mode="pyramid"))
    assert torch.equal(scorer.planes(image, zero)[:, 1:2], alone.planes(image, zero))


@torch.inference_mode()
def test_a_network_that_was_trained_on_reduced_pictures_looks_at_them_reduced(tmp_path):
    """Training took the longer side to 32 to 64 pixels: of 96 pixels a window shows 32."""
    root = write_kind(tmp_path / "part")
    path = write_checkpoint(tmp_path / "reduced.pth", root, scale_range=[32.0, 64.0])
    (source,) = make_sources([load_model(path)], [], None)
    assert source.input_size == 16
    scorer = PictureScorer((64, 96), [source], ScoreSettings())
    expected = PictureScorer((64, 96), [source], ScoreSettings((32,)))
    assert scorer.scales[0].windows.window == (32, 32)
    image = pictures(1, (64, 96))
    assert torch.equal(scorer(image)[0], expected(image)[0])
    (source,) = make_sources([load_model(write_checkpoint(path, root))], [], None)
    assert PictureScorer((64, 96), [source], ScoreSettings()).scales[0].windows.window == (16, 16)


def calibrated_scorers(count: int, clusters: int = 1):
    images = pictures(count, (24, 24)).numpy()
    images[1::2] = images[1::2] * 0.2 + 0.7

    def router(batch: torch.Tensor) -> torch.Tensor:
        return (batch.mean(dim=(1, 2, 3)) > 0.6).long()

    scorers = Scorers(
        [pixel_maps()],
        ScoreSettings((16,), smoothing=1),
        (lambda size: router) if clusters > 1 else None,
        [f"組{number}" for number in range(clusters)],
    )
    return scorers, images, calibrate_scorers(scorers, lambda: images, "set in a test")


@torch.inference_mode()
def test_statistics_of_good_pictures_give_them_z_scores_of_mean_0_and_spread_1():
    scorers, images, good = calibrated_scorers(12)
    scorer = scorers.of((24, 24))
    zeros = torch.zeros(12, dtype=torch.int64)
    planes = scorer.planes(torch.from_numpy(images), zeros)
    z = (planes - scorer.plane_mean) / scorer.plane_spread
    assert float(z.mean()) == pytest.approx(0, abs=1e-4)
    assert float(z.std()) == pytest.approx(1, abs=1e-3)
    _, scores, _ = scorer(torch.from_numpy(images))
    told = torch.sinh(torch.logit(scores.double()))
    assert float(told.mean()) == pytest.approx(0, abs=1e-3)
    assert float(told.std()) == pytest.approx(1, abs=1e-2)
    assert good.of_all["maxima"] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-6)


@torch.inference_mode()
def test_each_cluster_has_its_own_threshold_and_a_poor_one_that_of_all():
    scorers, images, good = calibrated_scorers(12, clusters=2)
    _, scores, clusters = scorers.of((24, 24))(torch.from_numpy(images))
    assert clusters.tolist() == [0, 1] * 6
    for cluster, threshold in enumerate(good.thresholds(0.2)):
        own = scores[clusters == cluster]
        # a batch rounds otherwise than single pictures do
        assert int((own > threshold.value + 1e-6).sum()) == 1 and threshold.strips == 6
    assert good.poor_clusters == []
    *_, poor = calibrated_scorers(5, clusters=2)
    assert poor.poor_clusters == ["組1"]
    assert poor.thresholds(0.2)[1].value == poor.threshold(0.2).value
    assert poor.thresholds(0.2)[0].strips == 3


def test_the_share_of_fresh_good_pictures_above_the_threshold_is_inside_the_bound():
    generator, target, draws = np.random.default_rng((24, 1)), 0.05, 400
    for count in (5, 40, 100):
        outside, shares = 0, []
        for _ in range(draws):
            scores = (1 / (1 + np.exp(-generator.standard_normal(count)))).tolist()
            threshold = threshold_for(calibrate_scores(scores), target, "")
            fresh = 1 / (1 + np.exp(-generator.standard_normal(2000)))
            shares.append((fresh > threshold.value).mean())
            outside += shares[-1] > threshold.share_bound
        # the bound holds in 95 % of the draws: 20 of 400 are expected outside, 35 are 3.5 sigmas
        assert outside <= 35
        # of n + 1 pictures in order, the threshold is the one with so many above it
        assert np.mean(shares) == pytest.approx((int(target * count) + 1) / (count + 1), rel=0.1)


def test_pictures_of_several_sizes_share_their_statistics():
    scorers, *_ = calibrated_scorers(4)
    first = scorers.of((24, 24))
    assert scorers.of((24, 24)) is first
    for side in range(20, 30):
        assert torch.equal(scorers.of((side, 31)).plane_mean, first.plane_mean)
    assert scorers.of((24, 24)) is not first  # the least recently used went


def test_without_good_pictures_nothing_is_calibrated():
    with pytest.raises(ValueError, match="found no good pictures"):
        calibrate_scorers(Scorers([pixel_maps()], ScoreSettings((16,))), lambda: [], "")
