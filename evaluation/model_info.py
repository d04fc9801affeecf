"""The facts of a model, in the same form for a checkpoint, an ONNX file and a classical method."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from common.errors import UserError, shown
from data.image_files import STORED_ORDER
from evaluation.contrast_response import fit_response, is_response
from evaluation.thresholds import (
    DEFAULT_RATE,
    HIGHEST_RATE,
    NOT_HELD_OUT,
    UNCALIBRATED,
    Threshold,
    is_calibration,
    threshold_for,
)
from ops.classical import POINT_SIGMAS
from ops.inspected_contrast import ContrastResponse, NoiseModel
from ops.tiling import PATCH_SIZES

STRIP_DETECTOR = "strip detector"  # also the tool of a file without the entry `tool`
MAX_NAME = 60  # characters of a tool's name that are printed
KEPT_WITH_MODEL = "kept with the model"  # the printed origin of a model's own threshold

# What a training measures on held-out strips, for the threshold, the drift warnings, the baselines
# and the inspected contrast. The values here stand for a training that measured nothing.
UNMEASURED = {
    "target_false_alarms": DEFAULT_RATE,
    "calibration": None,
    "channel_ranges": {},
    "rival_sigmas": {},
    "contrast_response": None,
    "value_range": None,
}
MEASURED = tuple(UNMEASURED)


@dataclass(frozen=True)
class ModelInfo:
    """The facts of a strip detector that scoring and export need.

    `image_type` is one of tiling.PATCH_SIZES, `input_max` the camera's largest value, and `align`
    one of registration.ALIGN_MODES. `image_size` is (height, width) in pixels; None means any size.
    `measured` holds those values of MEASURED that are known, and `weighting` is one of
    likelihood.WEIGHTINGS. `order` has the numbers of Target, Ref1 and Ref2 among the channels of
    the files that it was trained on. `ignores_missing` says whether the heatmap is 0 on missing
    features.
    """

    image_type: str
    input_max: float
    align: str
    image_size: tuple[int, int] | None = None
    epoch: int = 0
    training_dataset_path: str | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    weighting: str = "none"
    order: tuple[int, ...] = STORED_ORDER
    ignores_missing: bool = False

    @property
    def patch(self) -> int:
        """Height and width of a tile, in pixels."""
        return PATCH_SIZES[self.image_type]

    @property
    def calibration(self) -> dict[str, Any] | None:
        """The result of thresholds.calibrate; None where no good strip was held out."""
        return self.measured.get("calibration")

    @property
    def target_false_alarms(self) -> float:
        """False alarms per strip that the threshold is set for."""
        return self.measured.get("target_false_alarms", DEFAULT_RATE)

    def contrast_response(self, threshold: float) -> ContrastResponse | None:
        """What is found above a threshold on the heatmap, 0-1; None where it was not measured."""
        measured = self.measured.get("contrast_response")
        return fit_response(measured, threshold) if measured else None

    @property
    def noise(self) -> NoiseModel | None:
        """The noise that the detector measures in; None where no contrast was measured."""
        measured = self.measured.get("contrast_response")
        return NoiseModel(measured["noise"], measured["sigma"]) if measured else None

    def with_measured(self, **measured: Any) -> "ModelInfo":
        """A copy in which these values of MEASURED are set."""
        return replace(self, measured=self.measured | measured)

    def threshold(self, target: float | None = None, source: str = KEPT_WITH_MODEL) -> Threshold:
        """The threshold for `target` false alarms per strip; None means `target_false_alarms`.

        Without a calibration the threshold is UNCALIBRATED. `source` is the printed origin of the
        calibration. Raises `ValueError` for a `target` outside 0 to HIGHEST_RATE.
        """
        if not self.calibration:
            return Threshold(UNCALIBRATED, NOT_HELD_OUT)
        return threshold_for(self.calibration, target or self.target_false_alarms, source)


def require_tool(found: object, expected: str) -> None:
    """Raise `UserError`, without the path, unless the tool `expected` made the model."""
    if not isinstance(found, str) or found != expected:
        name = found if isinstance(found, str) and len(found) <= MAX_NAME else shown(found)
        raise UserError(f"found a model of the {name}, expected one of the {expected}")


def check_measured(content: dict[str, Any]) -> None:
    """Raise `UserError`, without the path, for an unusable value of MEASURED in `content`."""
    checks = {
        "target_false_alarms": lambda value: (
            type(value) in (int, float) and 0 < value <= HIGHEST_RATE
        ),
        "calibration": lambda value: value is None or is_calibration(value),
        "channel_ranges": lambda value: (
            isinstance(value, dict)
            and all(isinstance(name, str) for name in value)
            and all(map(_is_range, value.values()))
        ),
        "rival_sigmas": lambda value: (
            isinstance(value, dict)
            and all(
                type(sigma) in (int, float) and sigma in POINT_SIGMAS for sigma in value.values()
            )
        ),
        "contrast_response": lambda value: value is None or is_response(value),
        "value_range": lambda value: value is None or _is_value_range(value),
    }
    for name, is_usable in checks.items():
        if name in content and not is_usable(content[name]):
            found = shown(content[name])
            raise UserError(
                f"found {name} {found}, expected what a training measures on held-out strips"
            )


def require_order(value: object) -> tuple[int, ...]:
    """The order of a file's channels, read from a model's file.

    Raises `UserError`, without the path, for another value than three different ones of 0 to 3.
    """
    is_order = (
        isinstance(value, (list, tuple))
        and all(type(number) is int and 0 <= number <= 3 for number in value)
        and len(value) == len(set(value)) == 3
    )
    if not is_order:
        raise UserError(
            f"found channels {shown(value)}, expected the numbers of Target, Ref1 and Ref2"
        )
    return tuple(value)


def _is_value_range(value: object) -> bool:
    """Whether a value read from a file is a list of three finite numbers in ascending order."""
    is_triple = isinstance(value, list) and [type(number) for number in value] == [float] * 3
    return is_triple and -math.inf < value[0] <= value[1] <= value[2] < math.inf


def _is_range(value: object) -> bool:
    """Whether a value read from a file is a list of two finite floats in ascending order."""
    is_pair = isinstance(value, list) and [type(end) for end in value] == [float, float]
    return is_pair and -math.inf < value[0] <= value[1] < math.inf
