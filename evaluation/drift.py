"""Whether strips look like the training strips: brightness, contrast, noise and registration of
their channels, in numbers.

A network answers any strip, also one taken under another lamp, through a dirty lens or with a
reference that has moved. What the training strips were like is kept as a range of each statistic; a
folder of strips that lies outside one is worth a warning.
"""

import math

import cv2
import numpy as np

from gaussian import MAX_GREY
from ops.registration import MEASURES

STATISTICS_CHANNELS = ("target", "ref1", "ref2")
OF_EACH_CHANNEL = ("mean", "spread", "noise")
OF_EACH_REFERENCE = ("difference", "contrast", "residual")
STATISTICS = (
    *(f"{channel}_{kind}" for channel in STATISTICS_CHANNELS for kind in OF_EACH_CHANNEL),
    *(f"{channel}_{kind}" for channel in STATISTICS_CHANNELS[1:] for kind in OF_EACH_REFERENCE),
)
# What is added to the width of a range before its margins are taken: strips that happen to be alike
# leave one of no width.
ALLOWANCES = {
    "mean": 10.0,
    "spread": 10.0,
    "noise": 0.5,
    "difference": 10.0,
    "contrast": 0.1,
    "residual": 2.0,
}
ALLOWANCES |= {"shift_y": 0.5, "shift_x": 0.5, "wander": 0.5, "gain": 0.1, "remainder": 2.0}
# of all others: grey levels
UNITS = {"contrast": "", "gain": "", "shift_y": " px", "shift_x": " px", "wander": " px"}
MAY_BE_NEGATIVE = ("difference", "shift_y", "shift_x")
RANGE_MARGIN = 0.25  # of a range's width, on either side, where it is of many strips
MARGIN_OF_FEW = 5.0  # more, divided by their number less one
OUTSIDE_SHARE = 0.1  # of a folder's strips; a warning when more lie outside

DIFFERENCE_ORDER = 6
# of white noise's sigma, by differences in y and in x
HIGH_ORDER_GAIN = math.comb(2 * DIFFERENCE_ORDER, DIFFERENCE_ORDER)
MAD_TO_SIGMA = 1.4826  # of a normal distribution: sigma per median absolute deviation
# pixels: edges are the mean over the smaller box less the mean over the larger one
FINE_BOX, COARSE_BOX = 3, 15
# of the edges, per variance of white noise in the pixels
EDGE_NOISE_VARIANCE = 1 / FINE_BOX**2 - 1 / COARSE_BOX**2


def channel_statistics(image: np.ndarray) -> dict[str, float]:
    """(3, H, W) grey levels 0-255, of at least 7 x 7 pixels, to a finite number for each of
    STATISTICS.

    Of each channel: its mean, its spread (standard deviation) and its noise (sigma). Of each
    reference: the difference of its mean from Target's, its contrast (its spread divided by
    Target's; 0 where Target is constant) and its registration residual. The contrast has no unit,
    all others are in grey levels.
    """
    # of a file with the channels last, which would take three times as long
    channels = np.ascontiguousarray(image)
    means, spreads = (
        figure(channels, axis=(1, 2), dtype=np.float64).tolist() for figure in (np.mean, np.std)
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
    """What `Alignment` measured of a strip's references, (2, MEASURES), by name; the remainder in
    grey levels.
    """
    in_units = measures * np.where(np.array(MEASURES) == "remainder", MAX_GREY, 1)
    names = [f"{channel}_{measure}" for channel in STATISTICS_CHANNELS[1:] for measure in MEASURES]
    return dict(zip(names, in_units.astype(np.float64).ravel().tolist()))


def noise_sigma(channel: np.ndarray) -> float:
    """The sigma of the noise in (H, W), in its grey levels.

    Immerkaer 1996, "Fast noise variance estimation", with sixth differences instead of second ones,
    which leave less of a pattern, and with the median absolute deviation instead of the mean
    (Donoho and Johnstone 1994, "Ideal spatial adaptation by wavelet shrinkage"), which edges and
    defects hardly move. On more than nine of ten demo patterns a sigma of 1.5 to 3 is found within
    15 %, mostly 1 to 5 % too high, but one of 1.5 under lines 3 pixels wide at 45 degrees 45 % too
    high: such lines, and grain as fine as a pixel, count as noise. What neighbouring pixels share
    does not: noise of a JPG file or of a resampled image is found too low, stripes are not seen,
    and neither is noise where most pixels are clipped.
    """
    differences = np.diff(
        np.diff(channel, DIFFERENCE_ORDER, axis=0)[::2], DIFFERENCE_ORDER, axis=1
    )[:, ::2]
    return MAD_TO_SIGMA * float(np.median(np.abs(differences))) / HIGH_ORDER_GAIN


def registration_residuals(channels: np.ndarray, noises: list[float]) -> list[float]:
    """What is left of Target's edges after each reference's, matched in gain and offset, were taken
    away: rms in grey levels.

    Of channels (C, H, W), Target first, and the sigma of the noise in each, whose part is taken
    off. It grows in proportion to a shift of the reference, up to about one pixel, and with any
    other difference in the pattern. Gain and offset of the reference do not matter; Target's gain
    multiplies it. A constant Target leaves 0. An unrelated pattern leaves the rms of Target's edges
    times the square root of two, and so does a constant reference.
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
    """The statistics of at least one training strip to `{name: [lowest, highest]}`, what strips of
    the same kind may have.

    From the smallest to the largest value, with a margin on either side. On average 2 / (n + 1) of
    the strips of the same kind lie outside the smallest and the largest value of n (Wilks 1941,
    "Determination of sample sizes for setting tolerance limits"), so the margin is the wider the
    fewer they are: a third of the width for 60 strips, one and a quarter of it for 6. On demo
    strips fewer than 1 folder in 100 is reported for nothing with 2 or more training strips, and 1
    in 20 with a single one.
    """
    margin = RANGE_MARGIN + MARGIN_OF_FEW / max(len(statistics) - 1, 1)
    return {
        name: _range(name, [strip[name] for strip in statistics], margin) for name in statistics[0]
    }


def drift_warnings(statistics: list[dict[str, float]], ranges: dict[str, list[float]]) -> list[str]:
    """One sentence for each statistic in which a folder of strips lies outside the training strips'
    range.

    That is where its median does, or where more than a tenth of its strips do, and at least two: a
    change that is smaller than the difference from strip to strip carries only some of them out,
    while one strip of several that is out may be a bad one, which is what the network is there for.
    No strips, no warnings; a statistic without a range is passed over.
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
    """From the variances of the edges and their covariance; the gain is the ratio of their standard
    deviations.

    The gain of a least squares fit would fall as the reference moves away, and hide a part of the
    residual.
    """
    product = target * reference
    correlation = min(covariance / math.sqrt(product), 1.0) if product else 0.0
    return math.sqrt(2 * target * (1 - correlation))


def _range(name: str, values: list[float], margin: float) -> list[float]:
    kind = _statistic_kind(name)
    lowest, highest = min(values), max(values)
    beyond = margin * (highest - lowest + ALLOWANCES[kind])
    lowest_possible = -math.inf if kind in MAY_BE_NEGATIVE else 0.0
    return [max(lowest - beyond, lowest_possible), highest + beyond]


def _statistic_kind(name: str) -> str:
    """What is measured, without the channel that it is measured of."""
    return name.partition("_")[2]


def _sentence(name: str, values: np.ndarray, lowest: float, highest: float) -> str | None:
    median = float(np.median(values))
    outside = int(((values < lowest) | (values > highest)).sum())
    if lowest <= median <= highest and outside <= max(1, OUTSIDE_SHARE * len(values)):
        return None
    unit = UNITS.get(_statistic_kind(name), " grey levels")
    return (
        f"{name}: found {median:.3g}{unit} in the median strip, and {outside} of {len(values)} strips outside; "
        f"expected {lowest:.3g} to {highest:.3g}{unit}, the range of the training strips with a margin"
    )
