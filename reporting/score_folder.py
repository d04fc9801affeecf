"""Score a folder of strips, as the inference commands do.

The strips are verified, the threshold is set, all files are written, and the metrics are printed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.locations import with_urls
from common.notes import warn
from data.folder import (
    StripFile,
    describe_kinds,
    list_strips,
    require_one_split,
    truth_without_strip,
)
from data.ignored_regions import IgnoredRegions
from data.image_files import DEFAULT_INPUT_MAX, STORED_ORDER
from data.plausibility import content_warnings
from data.unlabelled import SampledFolder, list_false_alarm_strips
from data.value_range import range_warning, scale_warning
from data.verify import Verification, verify_strips
from evaluation.calibration import (
    channel_measure,
    make_baselines,
)
from evaluation.contrast_response import contrast_maps
from evaluation.detector import Detector, calibrated, classical
from evaluation.drift import drift_warnings
from evaluation.evaluate import evaluate
from evaluation.matching import MATCH_RADIUS
from evaluation.model_info import ModelInfo
from evaluation.predictors import DetectorPredictor
from evaluation.results import Evaluation, Rules
from evaluation.thresholds import Threshold
from ops.detector import MissingFeatures
from ops.inspected_contrast import ContrastResponse
from reporting.pictures import StripWriter
from reporting.scored_folder import (
    Intake,
    make_output_folder,
    require_output_elsewhere,
    require_usable,
    score_into,
    write_scored,
)


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """How a folder is scored; the fields are named like the flags of arguments.add_test_folder.

    `threshold` lies in 0-1. None means a threshold set on `good_path`, or else the model's own, for
    `target_false_alarms` per strip (None: as trained). `min_area` and `match_radius` are in pixels,
    `require_contrast` in grey levels 0-255, and `channels` is the order of a file's channels (None:
    as trained). `missing` is one of missing.MISSING_MODES. `points` is a file of true points in
    place of those beside the strips, and `fp_path` are folders of strips that are scored as well,
    each detection a false alarm.
    """

    output_dir: Path
    test_path: Path | None = None
    img_format: str | None = None
    input_max: float | None = None
    channels: tuple[int, ...] | None = None
    method: str = "net"
    good_path: Path | None = None
    threshold: float | None = None
    target_false_alarms: float | None = None
    use_ground_truth_mask: bool = True
    points: Path | None = None
    fp_path: Sequence[SampledFolder] | None = None
    require_contrast: float | None = None
    contrast_maps: bool = False
    min_area: int = 1
    polarity: str = "both"
    missing: str = "report"
    match_radius: float = MATCH_RADIUS
    candidates: int = 0
    dead_pixels: Path | None = None
    ignore_mask: Path | None = None
    mask_channel: int | None = None


def score_without_model(settings: ScoringSettings, device: torch.device) -> int:
    """Score a folder with the classical detector of --method and return the exit code.

    Raises `UserError` without --test_path and as `score_folder`.
    """
    folder = settings.test_path
    if folder is None:
        raise UserError(
            f"--method {settings.method}: found no --test_path, expected a folder of strips"
        )
    require_output_elsewhere(
        settings.output_dir, folders_read(folder, settings)
    )  # before the good strips are measured
    needs_threshold = settings.threshold is None and not settings.good_path
    input_max = settings.input_max or DEFAULT_INPUT_MAX
    detector = classical(
        settings.method,
        folder,
        settings.img_format,
        input_max,
        device,
        needs_threshold,
        settings.channels or STORED_ORDER,
        ignores_missing=settings.missing == "ignore",
    )
    print(with_urls(f"{detector.name} on {device}, strips of {folder}"))
    return score_folder(detector, folder, settings)


def score_folder(detector: Detector, folder: Path, settings: ScoringSettings) -> int:
    """Score a folder, write all files, and print the metrics and the strips that failed.

    Returns the command's exit code: 1 when some strips could not be used, else 0.

    Raises `UserError` when no strip can be used, when no threshold is known, when a contrast is
    asked for that is not known, or when the output folder lies among the strips.
    """
    output_dir = settings.output_dir
    require_missing(detector, settings.missing)
    require_output_elsewhere(output_dir, folders_read(folder, settings))
    if settings.channels:
        detector = replace(detector, info=replace(detector.info, order=settings.channels))
    ignored = IgnoredRegions(settings.dead_pixels, settings.ignore_mask, settings.mask_channel)
    verification, count = verify_folder(detector, folder, settings)
    # raises now if the ignored regions do not fit: all strips have the same size
    ignored.of(verification.usable[0].path, verification.image_size)
    serious = describe_intake(verification, detector.info)
    make_output_folder(output_dir)
    # false alarms are counted per strip, so the threshold holds for this size only
    detector = replace(detector, info=replace(detector.info, image_size=verification.image_size))
    # sets what the threshold and the response are taken from
    detector = set_on_good_strips(detector, settings, ignored)
    threshold = choose_threshold(detector, settings)
    response = choose_response(detector, settings, threshold)
    print(threshold.describe())
    with_truth = settings.use_ground_truth_mask
    unused_truth = truth_without_strip(folder, settings.points) if with_truth else []
    return score_into(
        Intake(folder, output_dir, verification, count, serious, unused_truth),
        lambda: evaluate_with_baselines(
            detector,
            verification.usable,
            make_rules(detector, settings, threshold, response, ignored),
            make_writer(detector, settings, response),
        ),
        lambda result: write_everything(
            output_dir, detector, folder, result, threshold, settings_shown(detector, settings)
        ),
    )


def folders_read(folder: Path, settings: ScoringSettings) -> list[Path | None]:
    """The folders that scoring `folder` reads."""
    return [folder, settings.good_path, *(entry.folder for entry in settings.fp_path or ())]


def verify_folder(
    detector: Detector, folder: Path, settings: ScoringSettings
) -> tuple[Verification, int]:
    """Return what the strips of a folder are, and how many there are, unusable ones included.

    Those of --fp_path come after them. Raises `UserError` when no strip can be used.
    """
    require_one_split(folder)
    info, img_format = detector.info, settings.img_format
    with_truth = settings.use_ground_truth_mask
    strips = list_strips(folder, img_format, with_truth, info.order, settings.points)
    strips += list_false_alarm_strips(settings.fp_path or (), img_format, info.order, strips)
    verification = verify_strips(strips, info.input_max, detector.patch, info.image_size)
    require_usable(folder, len(strips), verification)
    return verification, len(strips)


def describe_intake(verification: Verification, info: ModelInfo) -> list[str]:
    """Print what the strips hold, and return the warnings that are printed with it."""
    if kinds := describe_kinds(verification.usable):
        print(kinds)
    print(verification.values.describe(info.input_max))
    serious = intake_warnings(verification, info)
    for warning in serious:
        warn(warning, is_serious=True)
    return serious


def make_rules(
    detector: Detector,
    settings: ScoringSettings,
    threshold: Threshold,
    response: ContrastResponse | None,
    ignored: IgnoredRegions,
) -> Rules:
    """The rules of `settings` for a detector at its threshold."""
    align, device = detector.predictor.align, detector.device
    is_measured = detector.info.measured.get("channel_ranges") or align != "none"
    tells_missing = settings.missing == "separate"
    return Rules(
        threshold,
        settings.min_area,
        settings.polarity,
        settings.match_radius,
        ignored,
        patch=detector.patch if detector.patch > 1 else None,
        measure=channel_measure(align, device, response) if is_measured else None,
        candidates=settings.candidates,
        required_contrast=settings.require_contrast,
        missing=DetectorPredictor(MissingFeatures(align), device) if tells_missing else None,
    )


def make_writer(
    detector: Detector, settings: ScoringSettings, response: ContrastResponse | None
) -> StripWriter:
    """The writer of each strip's files."""
    if not settings.contrast_maps:
        return StripWriter(settings.output_dir)
    maps = contrast_maps(detector.predictor.align, response, detector.device)
    return StripWriter(settings.output_dir, contrast_map=maps)


def intake_warnings(verification: Verification, info: ModelInfo) -> list[str]:
    """Sentences on what verified strips hold that makes the verdicts doubtful."""
    values, trained = verification.values, info.measured.get("value_range")
    scale = range_warning(values, trained) if trained else scale_warning(values, info.input_max)
    content = content_warnings(verification.usable, info.input_max)
    return [scale, *content] if scale else content


def require_missing(detector: Detector, missing: str) -> None:
    """Raise `UserError` where the heatmap does not fit --missing."""
    if detector.info.ignores_missing and missing == "separate":
        raise UserError(
            f"--missing separate: found that {detector.name} ignores missing features, "
            "expected a file exported without --missing ignore"
        )
    if missing == "ignore" and not detector.info.ignores_missing:
        raise UserError(
            f"--missing ignore: found that {detector.name} reports missing features, "
            "expected a file exported with --missing ignore"
        )


def set_on_good_strips(
    detector: Detector, settings: ScoringSettings, ignored: IgnoredRegions
) -> Detector:
    """The detector with what the good strips of `settings` say of it; unchanged without them."""
    if not settings.good_path:
        return detector
    return calibrated(detector, settings.good_path, settings.img_format, ignored)


def choose_threshold(detector: Detector, settings: ScoringSettings) -> Threshold:
    """The threshold of `settings`: given, else the detector's own.

    A network without a threshold of its own has UNCALIBRATED.

    Raises `UserError` for a classical detector without a threshold, whose heatmap has no fixed
    scale.
    """
    if settings.threshold is not None:
        return Threshold(settings.threshold, "as given")
    if detector.is_classical and not detector.info.calibration:
        raise UserError(
            f"--method {settings.method}: found no threshold, "
            "expected --good_path FOLDER of good strips or --threshold"
        )
    return detector.threshold(settings.target_false_alarms)


def choose_response(
    detector: Detector, settings: ScoringSettings, threshold: Threshold
) -> ContrastResponse | None:
    """What the detector finds at the threshold; None where that was not measured.

    Raises `UserError` where `settings` ask for it all the same.
    """
    response = detector.info.contrast_response(threshold.value)
    wanted = "--require_contrast" if settings.require_contrast else "--contrast_maps"
    if response or not (settings.require_contrast or settings.contrast_maps):
        return response
    if detector.predictor.align == "none":
        raise UserError(
            f"{wanted}: found a detector that registers nothing, "
            "expected one trained with --align, or --method registered or likelihood"
        )
    raise UserError(
        f"{wanted}: found nothing on the contrast of points that {detector.name} finds, "
        "expected --good_path FOLDER of good strips, or a model trained, or exported with "
        "--good_path, by this version"
    )


def evaluate_with_baselines(
    detector: Detector,
    strips: list[StripFile],
    rules: Rules,
    writer: StripWriter,
) -> Evaluation:
    """Evaluate the detector, and the classical baselines beside it where some strip has a mask.

    The baselines show whether the detector is worth its cost.
    """
    has_truth = any(strip.has_truth for strip in strips)
    baselines = (
        make_baselines(detector.info.measured.get("rival_sigmas", {}), detector.device)
        if has_truth
        else {}
    )
    baselines.pop(detector.name, None)
    return evaluate(
        detector.predictor,
        strips,
        detector.info.input_max,
        on_strip=writer,
        rules=rules,
        baselines=baselines,
    )


def write_everything(
    output_dir: Path,
    detector: Detector,
    folder: Path,
    result: Evaluation,
    threshold: Threshold,
    settings: dict[str, Any],
) -> list[str]:
    """Write all files except those of single strips, which lie in `folder`.

    Adds a warning to the result where the threshold does not hold on these strips. Returns the
    drift warnings: channels in which the strips differ from those of the training.
    """
    statistics = [strip_result.statistics for strip_result in result.results]
    drift = drift_warnings(statistics, detector.info.measured.get("channel_ranges", {}))
    write_scored(output_dir, detector.name, folder, result, threshold, settings, drift)
    return drift


def settings_shown(detector: Detector, settings: ScoringSettings) -> dict[str, str]:
    """The settings that the report shows, as texts by name."""
    names = (
        "require_contrast",
        "min_area",
        "polarity",
        "match_radius",
        "points",
        "dead_pixels",
        "ignore_mask",
        "mask_channel",
    )
    values = {name: getattr(settings, name) for name in names}
    missing = "ignore" if detector.info.ignores_missing else settings.missing
    false_alarms = ", ".join(map(str, settings.fp_path or ()))
    return {
        "device": str(detector.predictor.device),
        **{name: with_urls(str(value)) for name, value in values.items() if value is not None},
        **({"fp_path": with_urls(false_alarms)} if false_alarms else {}),
        **({} if missing == "report" else {"missing": missing}),
    }
