import numpy as np
import pytest

from evaluation.thresholds import bound_on_rate, calibrate, threshold_for


def draw(generator, strips, cluster=None, mean=20.0):
    """Peaks of good strips, `mean` of them on the average; with a cluster size some strips have
    many and others few.
    """
    rates = (
        np.full(strips, mean)
        if cluster is None
        else generator.gamma(mean / cluster, cluster, strips)
    )
    return [
        np.sort(generator.random(generator.poisson(rate)))[::-1].astype(np.float32)
        for rate in rates
    ]


@pytest.mark.parametrize("alarms, expected", [(0, 2.9957), (1, 4.7439), (3, 7.7537), (10, 16.9622)])
def test_the_bound_is_that_of_garwood_s_table(alarms, expected):
    assert bound_on_rate(alarms, 1) == pytest.approx(expected, abs=1e-3)
    assert bound_on_rate(alarms, 50) == pytest.approx(expected / 50, abs=1e-4)


@pytest.mark.parametrize("strips", [5, 30, 100])
def test_no_more_than_asked_for_on_the_strips_themselves(strips):
    heights = draw(np.random.default_rng(strips), strips)
    for target in (0.1, 0.5, 1, 10):
        threshold = threshold_for(calibrate(heights), target, "here")
        alarms = sum((strip > threshold.value).sum() for strip in heights)
        assert alarms / strips == threshold.rate <= target <= threshold.rate + 1 / strips
        assert threshold.rate < threshold.bound


@pytest.mark.parametrize("cluster", [None, 4.0, 10.0])
@pytest.mark.parametrize("strips, target", [(10, 0.1), (30, 0.1), (30, 1.0), (100, 0.1)])
def test_fresh_good_strips_keep_the_bounds(strips, target, cluster):
    generator = np.random.default_rng((strips, int(cluster or 0)))
    fresh = draw(generator, 3000, cluster)
    maxima, peaks = np.array([strip.max(initial=0) for strip in fresh]), np.concatenate(fresh)
    rate_kept = share_kept = 0
    draws = 200
    for _ in range(draws):
        threshold = threshold_for(calibrate(draw(generator, strips, cluster)), target, "here")
        rate_kept += (peaks > threshold.value).sum() / len(fresh) <= threshold.bound
        share_kept += (maxima > threshold.value).mean() <= threshold.share_bound
    # the dispersion is estimated from the same few strips
    least = 0.90 if cluster is None else 0.86
    assert rate_kept / draws >= least and share_kept / draws >= 0.90
    # bounds that always hold are too wide to be of use
    assert rate_kept < draws or share_kept < draws


def test_few_strips_are_said_to_support_no_such_rate():
    few = threshold_for(calibrate(draw(np.random.default_rng(0), 5)), 0.1, "here")
    assert not few.is_supported and few.rate == 0 and few.bound >= 3 / 5 - 0.001
    assert "So few strips cannot support 0.1: expected at least 30" in few.describe()
    many = threshold_for(calibrate(draw(np.random.default_rng(0), 30)), 0.1, "here")
    assert (
        many.is_supported
        and "cannot support" not in many.describe()
        and "0.1 false alarms per strip on 30" in many.describe()
    )


def test_strips_without_any_detection_and_ties():
    silent = threshold_for(calibrate([np.zeros(0, np.float32)] * 40), 0.1, "here")
    assert (silent.value, silent.rate) == (0.0, 0.0) and silent.bound == pytest.approx(
        2.9957 / 40, abs=1e-4
    )
    level = threshold_for(calibrate([np.full(3, 0.5, np.float32)] * 40), 1.0, "here")
    assert (level.value, level.rate) == (0.5, 0.0)


def test_clusters_widen_the_bound():
    generator = np.random.default_rng(1)
    alone, clustered = (calibrate(draw(generator, 200, cluster)) for cluster in (None, 10.0))
    assert alone["dispersion"] < 1.3 < clustered["dispersion"]
    assert threshold_for(clustered, 0.1, "").bound > threshold_for(alone, 0.1, "").bound


def test_a_calibration_is_plain_and_small():
    calibration = calibrate(draw(np.random.default_rng(2), 20, mean=1000.0))
    assert len(calibration["peaks"]) == 201 and {type(peak) for peak in calibration["peaks"]} == {
        float
    }
    with pytest.raises(ValueError, match="found no good strips"):
        calibrate([])
    for target in (0, -1, 11, float("nan")):
        with pytest.raises(ValueError, match="expected more than 0"):
            threshold_for(calibration, target, "")
