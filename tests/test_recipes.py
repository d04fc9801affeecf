import hashlib
import json
import pickle
import platform
import re
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from common.errors import UserError
from data.augmentation import AugmentationSettings
from data.points import BACKGROUND_PRESENCES, PointSettings, SpreadPoint, draw_points, paint_points
from data.recipes import ClassicRecipe, RobustRecipe, settings_of_recipe
from dataloader import StripPatches
from gaussian import REF1, REF2, TARGET, TARGET_ONLY, WITH_BOTH, WITH_REF1, WITH_REF2
from tests.conftest import ROOT, SMALL_SIZE, arguments_for
from trainer import parse_args, train
from training import strip_settings
from training.checkpoint import load_checkpoint

POINTS = PointSettings()
RECORDED_WITH = ("2.4.6", "x86_64")  # numpy, machine


@pytest.fixture
def classic_samples(strip_file):
    """Eight epochs of one patch of many grey levels."""
    path = strip_file(((np.arange(3 * 128 * 128).reshape(3, 128, 128) * 7) % 256).astype(np.uint8))
    patches = StripPatches([path], (128, 128), 128, ClassicRecipe((3, 8)), seed=42)
    samples = [patches[epoch, 0] for epoch in range(8)]
    return [
        (sample["three_channel_input"].numpy(), sample["target_mask"].numpy()) for sample in samples
    ]


def test_classic_samples_are_what_they_have_always_been(classic_samples):
    levels = b"".join(
        (np.rint(image * 255).astype(np.uint8).tobytes() + mask.astype(np.uint8).tobytes())
        for image, mask in classic_samples
    )
    assert (
        hashlib.sha256(levels).hexdigest()
        == "9d38fdf5a614c7500085fbacabfe0147dce5049df69352f84f037e8ae1b7b935"
    )


@pytest.mark.skipif(
    (np.__version__, platform.machine()) != RECORDED_WITH, reason="bits depend on the library"
)
def test_classic_samples_have_the_bits_that_were_recorded(classic_samples):
    bits = b"".join(image.tobytes() + mask.tobytes() for image, mask in classic_samples)
    assert (
        hashlib.sha256(bits).hexdigest()
        == "897d7146053e55dfe228e0579b3d172ca3e464728503aba8bfa14b3f1235dcf4"
    )


def drawn(count=4000, noise=3.0, amounts=POINTS):
    """Many points, from patches of ten."""
    generator = np.random.default_rng(5)
    return [
        point
        for _ in range(count // 10)
        for point in draw_points(generator, amounts, 10, (128, 128), noise)
    ]


def present(point):
    return tuple(channel for channel in (TARGET, REF1, REF2) if point.amplitudes[channel])


def test_points_are_in_the_channels_that_their_presence_says():
    points = drawn()
    for point in points:
        size = [abs(amplitude) for amplitude in point.amplitudes]
        assert {np.sign(amplitude) for amplitude in point.amplitudes if amplitude} in (
            {-1.0},
            {1.0},
        )
        if point.presence == TARGET_ONLY:
            assert max(size[1:]) <= POINTS.leak[1] * size[TARGET] + 1e-9
            assert all(
                leak == 0 or leak >= POINTS.leak[0] * size[TARGET] - 1e-9 for leak in size[1:]
            )
        else:
            assert present(point) == point.presence != (REF1, REF2)
            if TARGET in point.presence:
                assert all(
                    size[channel] >= POINTS.shared_least * size[TARGET] - 1e-9
                    for channel in point.presence
                )
    counts = Counter(point.presence for point in points)
    assert counts[TARGET_ONLY] / len(points) == pytest.approx(POINTS.defect_share, abs=0.03)
    shares = [counts[presence] / len(points) for presence in BACKGROUND_PRESENCES]
    assert len(counts) == 6 and shares == pytest.approx([0.12] * 5, abs=0.02)
    leaks = Counter(present(point) for point in points if point.presence == TARGET_ONLY)
    assert leaks[TARGET_ONLY] / counts[TARGET_ONLY] == pytest.approx(
        1 - POINTS.leak_share, abs=0.04
    )
    assert set(leaks) == {TARGET_ONLY, WITH_REF1, WITH_REF2, WITH_BOTH}


def test_contrasts_sizes_and_places_are_in_their_ranges():
    points = drawn(noise=0.5)
    defects = [point for point in points if point.presence == TARGET_ONLY]
    contrasts = np.abs([point.amplitudes[TARGET] for point in defects])
    is_large = np.array([min(point.sigma) >= POINTS.large_sigma[0] for point in defects])
    small, large = contrasts[~is_large], contrasts[is_large]
    assert is_large.mean() == pytest.approx(POINTS.large_share, abs=0.03)
    assert POINTS.smallest_contrast <= small.min() < 4.5 and 80 < small.max() <= POINTS.contrast[1]
    assert (
        POINTS.large_contrast[0] <= large.min() < 25
        and 200 < large.max() <= POINTS.large_contrast[1]
    )
    # 2.5-8 x 0.5 is at most 4
    assert np.mean(small == POINTS.smallest_contrast) == pytest.approx(POINTS.noise_share, abs=0.05)
    assert 0.45 < np.mean([point.amplitudes[TARGET] > 0 for point in defects]) < 0.55
    sigmas = np.array([point.sigma for point in points])
    assert (
        0.6 <= sigmas.min() < 0.65
        and POINTS.large_sigma[1] - 0.5 < sigmas.max() <= POINTS.large_sigma[1]
    )
    ratios = sigmas.max(axis=1) / sigmas.min(axis=1)
    assert (
        2.3 < ratios.max() <= POINTS.elongation[1] + 1e-9
        and 0.4 < np.mean(sigmas[:, 0] > sigmas[:, 1]) < 0.6
    )
    flat_share = (
        1 - POINTS.large_share
    ) * POINTS.flat_share + POINTS.large_share * POINTS.large_flat_share
    assert np.mean([point.is_flat for point in points]) == pytest.approx(flat_share, abs=0.02)
    centers = np.array([point.centers for point in points])
    assert -1.5 <= centers[:, 0].min() < -1.4 and 128.4 < centers[:, 0].max() <= 128.5
    jitters = centers[:, 1:] - centers[:, :1]
    assert 0.97 * POINTS.jitter < np.abs(jitters).max() <= POINTS.jitter + 1e-9
    assert np.ptp(centers[:, 0] % 1, axis=0).min() > 0.99


def test_points_lie_apart():
    generator = np.random.default_rng(0)
    points = draw_points(generator, POINTS, 60, (128, 128), 0.0)
    assert 20 < len(points) < 60
    for number, point in enumerate(points):
        for other in points[:number]:
            apart = np.hypot(*np.subtract(point.centers[0], other.centers[0]))
            assert apart >= POINTS.clearance * max(point.sigma + other.sigma) - 1e-9


def paint_one(presence, amplitudes, level=100.0, center=(60.3, 70.4), sigma=(1.2, 1.0)):
    image, mask = np.full((3, 128, 128), level, np.float32), np.zeros((128, 128), np.float32)
    paint_points(
        image, mask, [SpreadPoint(presence, (center,) * 3, sigma, amplitudes, False)], POINTS
    )
    return image - level, mask


def test_only_defects_are_marked_and_where_they_show():
    added, mask = paint_one(TARGET_ONLY, (50.0, 0.0, 14.0))
    assert np.array_equal(mask == 1, added[TARGET] > 50 * POINTS.mask_level) and mask.sum() > 4
    y, x = np.indices(mask.shape)
    assert [(added[TARGET] * axis).sum() / added[TARGET].sum() for axis in (y, x)] == pytest.approx(
        [60.3, 70.4], abs=1e-2
    )
    assert not added[REF1].any() and added[REF2].max() == pytest.approx(
        0.28 * added[TARGET].max(), rel=1e-3
    )
    for presence in BACKGROUND_PRESENCES:
        added, mask = paint_one(
            presence, tuple(50.0 * (channel in presence) for channel in range(3))
        )
        assert not mask.any() and [plane.any() for plane in added] == [
            channel in presence for channel in range(3)
        ]


def test_a_small_point_between_pixels_or_beyond_the_border_is_marked_by_its_nearest_pixel():
    _, mask = paint_one(TARGET_ONLY, (90.0, 0.0, 0.0), center=(50.5, 60.5), sigma=(0.3, 0.3))
    assert mask.sum() == 1
    _, mask = paint_one(TARGET_ONLY, (90.0, 0.0, 0.0), center=(-1.2, 128.2))
    assert np.argwhere(mask).tolist() == [[0, 127]]


@pytest.mark.parametrize(
    "level, amplitude, is_marked",
    [(254, 60, False), (254, -60, True), (1, -60, False), (200, 100, True), (60, -200, True)],
)
def test_what_saturation_hides_is_not_marked(level, amplitude, is_marked):
    assert paint_one(TARGET_ONLY, (amplitude, 0.0, 0.0), level)[1].any() == is_marked
    assert not paint_one(TARGET_ONLY, (2.9, 0.0, 0.0))[1].any()


@pytest.fixture
def robust(dataset):
    paths = sorted((dataset / "train" / "good").iterdir())
    return StripPatches(paths, SMALL_SIZE, 128, RobustRecipe((4, 10)), seed=42)


def test_every_robust_sample_is_finite_in_range_and_mostly_painted(robust):
    marked = 0
    for epoch in range(20):
        for index in range(len(robust)):
            sample = robust[epoch, index]
            image, mask = sample["three_channel_input"].numpy(), sample["target_mask"].numpy()
            assert (
                image.dtype == np.float32
                and np.isfinite(image).all()
                and image.min() >= 0
                and image.max() <= 1
            )
            assert (
                mask.dtype == np.float32
                and set(np.unique(mask)) <= {0.0, 1.0}
                and mask.mean() < 0.1
            )
            marked += mask.any()
    assert 0.75 < marked / 240 < 0.95


def test_a_robust_sample_is_the_same_from_any_worker_and_another_one_in_each_epoch(robust):
    alone = [batch["three_channel_input"] for batch in DataLoader(robust, batch_size=4)]
    together = [
        batch["three_channel_input"] for batch in DataLoader(robust, batch_size=4, num_workers=2)
    ]
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert not torch.equal(robust[0, 0]["three_channel_input"], robust[1, 0]["three_channel_input"])
    assert len(pickle.dumps(robust)) < 5000


def test_a_patch_keeps_its_memory_whatever_its_layout():
    image = np.random.default_rng(0).uniform(0, 255, (3, 64, 64)).astype(np.float32)
    samples = []
    for patch in (image.copy(), np.asfortranarray(image)):
        mask = np.zeros((64, 64), np.float32)
        RobustRecipe((4, 10))(patch, mask, np.random.default_rng(1))
        samples.append((patch, mask))
    assert all(np.array_equal(one, other) for one, other in zip(*samples))


def test_given_flags_beat_those_of_a_recipe_which_beat_the_defaults():
    flags = ["--training_dataset_path", "strips"]
    classic = parse_args([*flags, "--recipe", "classic"])
    assert classic.gamma_schedule == "cosine" and classic.recipe_settings == {}
    robust = parse_args(flags)
    assert (
        robust.gamma_schedule == "constant"
        and robust.recipe_settings["mask_level"] == POINTS.mask_level
    )
    assert (
        parse_args([*flags, "--recipe", "robust", "--gamma_schedule", "cosine"]).gamma_schedule
        == "cosine"
    )


def test_every_amount_is_a_plain_setting_of_the_run():
    settings = settings_of_recipe("robust")
    assert set(settings) == {
        field.name for kind in (AugmentationSettings, type(POINTS)) for field in fields(kind)
    }
    assert len(settings) == len(fields(AugmentationSettings)) + len(fields(POINTS))  # no name twice
    assert json.loads(json.dumps(settings)) == settings


def test_a_run_keeps_its_recipe_and_is_resumed_with_no_other(dataset, tmp_path, monkeypatch):
    best = train(parse_args(arguments_for(dataset, tmp_path, "--recipe", "robust", "--epochs", 1)))
    last = best.with_name(best.name.replace("_best", ""))
    settings = settings_of_recipe("robust")
    for content in (
        load_checkpoint(last),
        json.loads(last.with_name(f"{last.stem}_arguments.json").read_text()),
    ):
        assert (content["recipe"], content["recipe_settings"], content["gamma_schedule"]) == (
            "robust",
            settings,
            "constant",
        )
    with pytest.raises(UserError, match="--recipe robust, expected classic"):
        train(parse_args(["--resume", str(last), "--recipe", "classic", "--gpu_id", "-1"]))
    train(parse_args(["--resume", str(last), "--epochs", "2", "--gpu_id", "-1"]))
    longer = load_checkpoint(last.with_name(last.name.replace("ep1", "ep2")))
    assert (longer["recipe"], longer["recipe_settings"], longer["epoch"]) == ("robust", settings, 2)
    monkeypatch.setattr(
        strip_settings, "settings_of_recipe", lambda name: settings | {"another": 0.6}
    )
    with pytest.raises(UserError, match=r"a recipe without another, which this code's recipe has"):
        train(parse_args(["--resume", str(last), "--epochs", "3", "--gpu_id", "-1"]))


def test_a_checkpoint_from_before_there_were_recipes_is_of_the_classic_one():
    assert strip_settings.resumed_recipe({}) == {"recipe": "classic", "recipe_settings": {}}
    with pytest.raises(UserError, match="unheard-of, expected one of classic, robust"):
        strip_settings.resumed_recipe({"recipe": "unheard-of"})


def test_the_document_has_every_amount_of_the_robust_recipe():
    text = (ROOT / "docs" / "explanation" / "recipe-and-loss.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text, flags=re.MULTILINE))
    expected = {
        name: value if isinstance(value, list) else [value]
        for name, value in settings_of_recipe("robust").items()
    }
    assert {
        name: [float(word) for word in re.findall(r"[\d.]+", rows[name])] for name in rows
    } == expected
