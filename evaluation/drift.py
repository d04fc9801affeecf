"""Drift: whether strips look like the training strips, in statistics of their channels.

The statistics measure brightness, contrast, noise and registration. A network gives a heatmap for
any strip, also for one taken under another lamp, through a dirty lens or with a displaced
reference. A range of each statistic over the training strips is kept with the model. A folder of
strips outside a range gives a warning.
"""

import math

import cv2
import numpy as np

from data.augmentation import MAD_TO_SIGMA
from gaussian import MAX_GREY
from ops.registration import MEASURES

STATISTICS_CHANNELS = ("target", "ref1", "ref2")
OF_EACH_CHANNEL = ("mean", "spread", "noise")
OF_EACH_REFERENCE = ("difference", "contrast", "residual")
STATISTICS = (
    *(f"{channel}_{kind}" for channel in STATISTICS_CHANNELS for kind in OF_EACH_CHANNEL),
    *(f"{channel}_{kind}" for channel in STATISTICS_CHANNELS[1:] for kind in OF_EACH_REFERENCE),
)
# Added to the width of a range before its margins are computed, in the units below: strips that
# happen to be alike give a range without width.
ALLOWANCES = {
    "mean": 10.0,
    "spread": 10.0,
    "noise": 0.5,
    "difference": 10.0,
    "contrast": 0.1,
    "residual": 2.0,
}
ALLOWANCES |= {"shift_y": 0.5, "shift_x": 0.5, "wander": 0.5, "gain": 0.1, "remainder": 2.0}
# All other statistics are in grey levels.
UNITS = {"contrast": "", "gain": "", "shift_y": " px", "shift_x": " px", "wander": " px"}
# what the statistics are called in warnings; a table's columns have their names
CHANNEL_WORDS = {"target": "Target", "ref1": "Ref1", "ref2": "Ref2"}
KIND_WORDS = {
    "mean": "mean",
    "spread": "spread of grey levels",
    "noise": "noise",
    "difference": "difference from Target's mean",
    "contrast": "contrast as a share of Target's",
    "residual": "registration residual against Target",
    "shift_y": "shift in y against Target",
    "shift_x": "shift in x against Target",
    "wander": "bending and vibration against Target",
    "gain": "gain against Target",
    "remainder": "remaining difference from Target",
}
MAY_BE_NEGATIVE = ("difference", "shift_y", "shift_x")
RANGE_MARGIN = 0.25  # share of a range's width on either side, for many strips
MARGIN_OF_FEW = 5.0  # for n strips, this divided by n - 1 is added to RANGE_MARGIN
OUTSIDE_SHARE = 0.1  # share of a folder's strips; more of them outside give a warning

DIFFERENCE_ORDER = 6
# Factor by which differences in y and in x multiply the sigma of white noise.
HIGH_ORDER_GAIN = math.comb(2 * DIFFERENCE_ORDER, DIFFERENCE_ORDER)
# Pixels: edges are the mean over the smaller box minus the mean over the larger one.
FINE_BOX, COARSE_BOX = 3, 15
# Variance of the edges per variance of white noise in the pixels.
EDGE_NOISE_VARIANCE = 1 / FINE_BOX**2 - 1 / COARSE_BOX**2


def channel_statistics(image: np.ndarray) -> dict[str, float]:
    """Return a finite number for each of STATISTICS, from channels (3, H, W) in grey levels 0-255.

    The image has at least 7 x 7 pixels. Each channel has a mean, a spread (standard deviation) and
    a noise (sigma). Each reference has the difference of its mean from Target's, a contrast (its
    spread divided by Target's; 0 where Target is constant) and a registration residual. The
    contrast has no unit; all others are in grey levels.
    """
    # a view of an image with the channels last would take three times as long
    channels = np.ascontiguousarray(image)
    means, spreads = (
        reduce(channels, axis=(1, 2), dtype=np.float64).tolist() for reduce in (np.mean, np.std)
    )
    noises = [noise_sigma(channel) for channel in channels]
    differences = [mean - means[0] for mean in means[1:]]
    contrasts = [spread / spreads[0] if spreads[0] else 0.0 for spread in spreads[1:]]
    rows = [
        *zip(means, spreads, noises),
        *zip(differences, contrasts, registration_residuals(channels, noises)),
    ]
    return dict(zip(STATISTICS, [value for row in rows for value in row]))


def alignment_statistics(measures: np.ndarray) -> dict[str, float]:
    """Return by name what `Alignment` measured of a strip's references, (2, MEASURES).

    The remainder is converted to grey levels.
    """
    in_units = measures * np.where(np.array(MEASURES) == "remainder", MAX_GREY, 1)
    names = [f"{channel}_{measure}" for channel in STATISTICS_CHANNELS[1:] for measure in MEASURES]
    return dict(zip(names, in_units.astype(np.float64).ravel().tolist()))


def noise_sigma(channel: np.ndarray) -> float:
    """Return the sigma of the noise in (H, W), in its grey levels.

    The method is that of Immerkaer 1996, "Fast noise variance estimation", with two changes. It
    takes sixth differences instead of second ones, because they suppress a pattern better. It takes
    the median absolute deviation instead of the mean (Donoho and Johnstone 1994, "Ideal spatial
    adaptation by wavelet shrinkage"), because edges and defects hardly change it.

    On more than nine of ten demo patterns, a sigma of 1.5 to 3 is measured within 15 %, mostly 1 to
    5 % too high. Under lines 3 pixels wide at 45 degrees, a sigma of 1.5 is measured 45 % too high:
    such lines, and grain as fine as a pixel, count as noise. Noise that neighbouring pixels share
    does not count: that of a JPG file or of a resampled image is measured too low, and stripes are
    not measured. Neither is noise where most pixels are clipped.
    """
    differences = np.diff(
        np.diff(channel, DIFFERENCE_ORDER, axis=0)[::2], DIFFERENCE_ORDER, axis=1
    )[:, ::2]
    return MAD_TO_SIGMA * float(np.median(np.abs(differences))) / HIGH_ORDER_GAIN


def registration_residuals(channels: np.ndarray, noises: list[float]) -> list[float]:
    """Return each reference's residual: rms of the edges that differ from Target's, in grey levels.

    The channels are (C, H, W), Target first. A reference's edges are matched to Target's in gain
    and offset and subtracted. `noises` is the sigma of the noise in each channel, whose
    contribution is removed.

    The residual is proportional to the shift of a reference, up to about one pixel, and grows with
    any other difference of the pattern. It does not depend on a reference's gain and offset;
    Target's gain multiplies it. For a constant Target it is 0. For an unrelated pattern, or a
    constant reference, it is the rms of Target's edges times the square root of two.
    """
    edges = [
        cv2.blur(channel, (FINE_BOX, FINE_BOX)) - cv2.blur(channel, (COARSE_BOX, COARSE_BOX))
        for channel in channels
    ]
    noise_variances = [EDGE_NOISE_VARIANCE * noise**2 for noise in noises]
    target, *references = (
        max(_mean_product(edge, edge) - noise, 0.0) for edge, noise in zip(edges, noise_variances)
    )
    covariances = [_mean_product(edges[0], edge) for edge in edges[1:]]
    return [
        _residual(target, reference, covariance)
        for reference, covariance in zip(references, covariances)
    ]


def training_ranges(statistics: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return `{name: [lowest, highest]}` from the statistics of at least one training strip.

    A range extends from the smallest to the largest value, with a margin on either side, so that
    strips of the same kind lie inside. On average, 2 / (n + 1) of such strips lie outside the
    smallest and the largest value of n (Wilks 1941, "Determination of sample sizes for setting
    tolerance limits"). So the margin is wider for fewer strips: a third of the width for 60, one
    and a quarter of it for 6. On demo strips, fewer than 1 folder in 100 gives a false warning with
    2 or more training strips, and 1 in 20 with a single one.
    """
    margin = RANGE_MARGIN + MARGIN_OF_FEW / max(len(statistics) - 1, 1)
    return {
        name: _range(name, [strip[name] for strip in statistics], margin) for name in statistics[0]
    }


def drift_warnings(statistics: list[dict[str, float]], ranges: dict[str, list[float]]) -> list[str]:
    """Return a sentence for each statistic in which a folder of strips has left its training range.

    It has if its median is outside, or more than a tenth of its strips and at least two. A change
    that is smaller than the variation between strips moves only some of them out. A single strip
    outside may be a bad one, which the network is there to find. Without strips there are no
    warnings; a statistic without a range is skipped.
    """
    if not statistics:
        return []
    values = {
        name: np.array([strip[name] for strip in statistics])
        for name in statistics[0]
        if name in ranges
    }
    sentences = [_sentence(name, values[name], *ranges[name]) for name in values]
    return [sentence for sentence in sentences if sentence]


def _mean_product(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.vdot(first, second)) / first.size


def _residual(target: float, reference: float, covariance: float) -> float:
    """Return the residual from the variances of the edges and their covariance.

    The gain is the ratio of the standard deviations. The gain of a least squares fit would fall as
    the reference moves away, and hide a part of the residual.
    """
    product = target * reference
    correlation = min(covariance / math.sqrt(product), 1.0) if product else 0.0
    return math.sqrt(2 * target * (1 - correlation))


def in_words(name: str) -> str:
    """Return what a statistic is, such as `Target's noise`, with its name as in the tables."""
    channel, _, kind = name.partition("_")
    if channel not in CHANNEL_WORDS or kind not in KIND_WORDS:  # of a later version
        return name
    return f"{CHANNEL_WORDS[channel]}'s {KIND_WORDS[kind]} ({name})"


def _range(name: str, values: list[float], margin: float) -> list[float]:
    kind = _statistic_kind(name)
    lowest, highest = min(values), max(values)
    beyond = margin * (highest - lowest + ALLOWANCES[kind])
    lowest_possible = -math.inf if kind in MAY_BE_NEGATIVE else 0.0
    return [max(lowest - beyond, lowest_possible), highest + beyond]


def _statistic_kind(name: str) -> str:
    """Return what is measured: the name without the channel."""
    return name.partition("_")[2]


def _sentence(name: str, values: np.ndarray, lowest: float, highest: float) -> str | None:
    median = float(np.median(values))
    outside = int(((values < lowest) | (values > highest)).sum())
    if lowest <= median <= highest and outside <= max(1, OUTSIDE_SHARE * len(values)):
        return None
    unit = UNITS.get(_statistic_kind(name), " grey levels")
    return (
        f"{in_words(name)}: found {median:.3g}{unit} in the median strip, "
        f"and {outside} of {len(values)} strips outside; "
        f"expected {lowest:.3g} to {highest:.3g}{unit}, "
        "the range of the training strips with a margin"
    )
