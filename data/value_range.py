"""The range of values in a set of strips: whether it fits --input_max, and a model's training.

A wrong scale is silent: strips of 0 to 1.25 that are taken for 0 to 255 train a network, validate
well on painted defects, and find nothing on the line.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from data.image_files import CAMERA_RANGES
from gaussian import MAX_GREY

LEAST_SHARE = 1 / 8  # of --input_max that a set must use, and of two ranges that must be common
TAIL = 0.1  # percent of a strip's values on either side that its usual range leaves out
STEP = 4  # every so many pixels in y and in x are looked at for the median and the usual range
# error of a value converted from the camera's range to grey levels and back
RANGE_ROUNDING = 1e-6


@dataclass(frozen=True)
class ValueRange:
    """The values of a strip or of several, in grey levels 0-255, after clipping.

    `low` and `high` leave out TAIL percent on either side. `clipped` is the number of values that
    lay outside the range.
    """

    lowest: float
    low: float
    median: float
    high: float
    highest: float
    clipped: int = 0

    def describe(self, input_max: float) -> str:
        """A sentence in the files' own values, of which `input_max` is the largest."""
        lowest, median, highest = (
            f"{level * input_max / MAX_GREY:.4g}"
            for level in (self.lowest, self.median, self.highest)
        )
        more = f"; {self.clipped} outside were clipped" if self.clipped else ""
        return f"values {lowest} to {highest} of 0\N{EN DASH}{input_max:g}, median {median}{more}"

    def usual(self) -> list[float]:
        """The usual range and its median, as a model keeps it: [low, median, high]."""
        return [self.low, self.median, self.high]


def measure_values(image: np.ndarray, clipped: int) -> ValueRange:
    """The values of a strip (C, H, W) in grey levels, of which so many were clipped."""
    sample = np.ascontiguousarray(image[:, ::STEP, ::STEP])
    low, median, high = np.percentile(sample, (TAIL, 50, 100 - TAIL)).tolist()
    return ValueRange(float(image.min()), low, median, high, float(image.max()), clipped)


def merge_ranges(ranges: Sequence[ValueRange]) -> ValueRange | None:
    """The range of several strips; its median is that of their medians. None without strips."""
    if not ranges:
        return None
    return ValueRange(
        min(strip.lowest for strip in ranges),
        min(strip.low for strip in ranges),
        float(np.median([strip.median for strip in ranges])),
        max(strip.high for strip in ranges),
        max(strip.highest for strip in ranges),
        sum(strip.clipped for strip in ranges),
    )


def require_fitting_scale(values: ValueRange, input_max: float) -> None:
    """Raise `UserError`, without a path, for a set that uses less than LEAST_SHARE of its range."""
    highest = values.highest * input_max / MAX_GREY
    if highest >= input_max * LEAST_SHARE:
        return
    advice = (
        f"data of this range need --input_max {fitting_input_max(highest):g}, in training and "
        "scoring, or what their largest possible value is"
        if highest > 0
        else "every pixel is black"
    )
    raise UserError(
        f"found no value above {highest:.4g} in the whole data set, "
        f"less than an eighth of 0 to {input_max:g}: {advice}"
    )


def scale_warning(values: ValueRange, input_max: float) -> str | None:
    """A sentence where few pixels alone reach beyond LEAST_SHARE of the range; else None."""
    if values.high >= MAX_GREY * LEAST_SHARE:
        return None
    high, highest = (level * input_max / MAX_GREY for level in (values.high, values.highest))
    return (
        f"found {100 - TAIL:g} % of all values below {high:.4g} and the largest {highest:.4g}, "
        f"expected more of 0 to {input_max:g}: is --input_max {fitting_input_max(high):g} meant?"
    )


def fitting_input_max(highest: float) -> float:
    """The --input_max for data up to `highest`: a usual one, or else `highest` rounded up.

    Values up to it use at least LEAST_SHARE of a usual range.
    """
    for limit in CAMERA_RANGES:
        if limit * LEAST_SHARE <= highest <= limit * (1 + RANGE_ROUNDING):
            return limit
    digit = 10 ** (math.floor(math.log10(highest)) - 2)
    return math.ceil(highest / digit * (1 - RANGE_ROUNDING)) * digit


def range_warning(values: ValueRange, trained: list[float] | None) -> str | None:
    """A sentence where a folder's range and that of the training hardly overlap; else None.

    `trained` is the training's `ValueRange.usual`, None where it is not known. The common part must
    be LEAST_SHARE of the wider range.
    """
    if trained is None:
        return None
    low, _, high = trained
    common = min(high, values.high) - max(low, values.low)
    widest = max(high - low, values.high - values.low)
    if common >= LEAST_SHARE * widest:
        return None
    return (
        f"found values of {values.low:.4g} to {values.high:.4g} grey levels, median "
        f"{values.median:.4g}; expected those of the training, {low:.4g} to {high:.4g}, median "
        f"{trained[1]:.4g}: the scale differs, and the verdicts mean nothing"
    )
