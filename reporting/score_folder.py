"""A folder scored as the commands do it: strips inspected, threshold set, everything written and
the figures printed.
"""

import argparse
import os
import sys
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from common.errors import UserError
from common.files import refused_by_system
from data.folder import GOOD, StripFile, list_strips, masks_without_strip
from data.ignored_regions import IgnoredRegions
from data.image_files import DEFAULT_INPUT_MAX
from data.verify import verify_strips
from evaluation.calibration import (
    best_sigmas,
    calibrate_on,
    channel_measure,
    good_strips,
    make_baselines,
)
from evaluation.drift import drift_warnings
from evaluation.evaluate import evaluate
from evaluation.predictors import DetectorPredictor
from evaluation.results import Evaluation, Rules
from evaluation.thresholds import DEFAULT_RATE, UNCALIBRATED, Threshold, threshold_for
from ops.classical import baseline_name, choose_sigma, classical_detector
from reporting.html_report import write_report
from reporting.pictures import StripWriter
from reporting.tables import describe_baselines, describe_figures, write_results

REPORT = "report.html"


class PlacedPredictor(Protocol):
    """A predictor that says on which device it computes, and what it does to the references first:
    one of registration.MODES.
    """

    device: torch.device | str
    align: str

    def __call__(self, image: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Detector:
    """What scores strips, and what is kept with it: `measured` has what `calibration.measure`
    found, as far as it is known.

    Strips must be of `image_size` (height, width; None: of one size) and at least as large as a
    `patch`.
    """

    name: str
    predictor: PlacedPredictor
    input_max: float
    device: torch.device
    patch: int = 1
    image_size: tuple[int, int] | None = None
    is_classical: bool = False
    measured: dict[str, Any] = field(default_factory=dict)
    trained_on: str | None = None
    calibrated_on: str = "kept with the model"


def classical(
    method: str,
    folder: Path | None,
    img_format: str | None,
    input_max: float,
    device: torch.device,
    needs_threshold: bool,
) -> Detector:
    """The detector of a --method; where `folder` is a `test/` with a `valid/` beside it, set up on
    those strips.

    Raises `UserError` when they cannot be used.
    """
    beside = Path(os.path.abspath(folder)).with_name("valid") if folder else None
    valid = (
        list_strips(beside, img_format)
        if beside and folder.name == "test" and beside.is_dir()
        else []
    )
    verification = verify_strips(valid, input_max)
    if verification.problems:
        raise UserError(verification.problems[0])
    measured = {"rival_sigmas": best_sigmas(valid, input_max, device)}
    sigma = choose_sigma(method, measured["rival_sigmas"])
    predictor = DetectorPredictor(classical_detector(method, sigma), device)
    good = good_strips(valid)
    if good and needs_threshold:
        measured["calibration"] = calibrate_on(predictor, good, input_max, IgnoredRegions())
    known = {
        "is_classical": True,
        "measured": measured,
        "calibrated_on": f"set on {beside / GOOD}" if beside else "",
    }
    return Detector(baseline_name(method, sigma), predictor, input_max, device, **known)


def score_without_model(arguments: argparse.Namespace, device: torch.device) -> int:
    """Score a folder by --method; returns the command's exit code.

    Raises `UserError` when no strip can be used.
    """
    folder = arguments.test_path
    if folder is None:
        raise UserError(
            f"--method {arguments.method}: found no --test_path, expected a folder of strips"
        )
    needs_threshold = arguments.threshold is None and not arguments.good_path
    input_max = arguments.input_max or DEFAULT_INPUT_MAX
    detector = classical(
        arguments.method, folder, arguments.img_format, input_max, device, needs_threshold
    )
    print(f"{detector.name} on {device}, strips of {folder}")
    return score_folder(detector, folder, arguments)


def score_folder(detector: Detector, folder: Path, arguments: argparse.Namespace) -> int:
    """Score a folder, write everything, print the figures and what could not be used.

    Returns the command's exit code.

    `arguments` has the flags of `arguments.add_test_folder`. Raises `UserError` when no strip can
    be used.
    """
    output_dir = arguments.output_dir
    for read in filter(None, (folder, arguments.good_path)):
        if read.resolve() in (output_dir.resolve(), *output_dir.resolve().parents):
            raise UserError(
                f"{output_dir}: found an output folder among the strips of {read}, expected one elsewhere"
            )
    ignored = IgnoredRegions(arguments.dead_pixels, arguments.ignore_mask, arguments.mask_channel)
    strips = list_strips(folder, arguments.img_format, arguments.use_ground_truth_mask)
    verification = verify_strips(strips, detector.input_max, detector.patch, detector.image_size)
    if not verification.usable:
        raise UserError(
            f"{folder}: none of {len(strips)} strips could be used; the first: {verification.problems[0]}"
        )
    # what does not fit one strip fits none
    ignored.of(verification.usable[0].path, verification.image_size)
    with refused_by_system(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
    # a rate is one of strips of that size
    detector = replace(detector, image_size=verification.image_size)
    threshold = choose_threshold(detector, arguments, ignored)
    print(threshold.describe())
    seams = detector.patch if detector.patch > 1 else None
    align = detector.predictor.align
    is_measured = detector.measured.get("channel_ranges") or align != "none"
    measure = channel_measure(align, detector.device) if is_measured else None
    rules = Rules(
        threshold,
        arguments.min_area,
        arguments.polarity,
        arguments.match_radius,
        ignored,
        seams,
        measure,
    )
    result = evaluate_with_baselines(detector, verification.usable, rules, output_dir)
    result.problems[:0] = verification.problems
    if not result.results:
        raise UserError(
            f"{folder}: none of {len(strips)} strips could be used; the first: {result.problems[0]}"
        )
    drift = write_everything(
        output_dir, detector, result, threshold, settings_shown(detector, folder, arguments)
    )
    unused = masks_without_strip(folder, strips) if arguments.use_ground_truth_mask else []
    warnings = [*drift, *(f"{path}: found a mask without a strip of its name" for path in unused)]
    _print_outcome(result, len(strips), warnings, output_dir)
    return 1 if result.problems else 0


def _print_outcome(result: Evaluation, strips: int, warnings: list[str], output_dir: Path) -> None:
    for line in describe_result(result):
        print(line)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for problem in result.problems:
        print(f"error: {problem}", file=sys.stderr)
    print(result.times.describe(len(result.results)))
    print(
        f"{len(result.results)} of {strips} strips scored: verdicts, detections, heatmaps and panels are in {output_dir}; "
        f"next: open {output_dir / REPORT} in a browser"
    )


def choose_threshold(
    detector: Detector, arguments: argparse.Namespace, ignored: IgnoredRegions
) -> Threshold:
    """The one that is given; else one set on the good strips that are given; else the one kept with
    the model.

    A model that keeps none has UNCALIBRATED. Raises `UserError` for a classical detector, whose
    heatmap says nothing by itself.
    """
    if arguments.threshold is not None:
        return Threshold(arguments.threshold, "as given")
    if arguments.good_path:
        detector = calibrated(detector, arguments.good_path, arguments.img_format, ignored)
    elif detector.is_classical and not detector.measured.get("calibration"):
        raise UserError(
            f"--method {arguments.method}: found no threshold, expected --good_path FOLDER of good strips or --threshold"
        )
    return stored_threshold(detector, arguments.target_false_alarms)


def stored_threshold(detector: Detector, target: float | None = None) -> Threshold:
    """The threshold that is kept with a detector, for `target` false alarms per strip (None: those
    that it was trained for).
    """
    if not detector.measured.get("calibration"):
        return Threshold(
            UNCALIBRATED,
            "no good strip was held out: set one with --good_path FOLDER of good strips",
        )
    target = target or detector.measured.get("target_false_alarms", DEFAULT_RATE)
    return threshold_for(detector.measured["calibration"], target, detector.calibrated_on)


def evaluate_with_baselines(
    detector: Detector,
    strips: list[StripFile],
    rules: Rules,
    output_dir: Path,
    pictures_per_kind: int | None = None,
) -> Evaluation:
    """Beside the classical methods where it is known what is a defect: the question is whether the
    detector is worth it.
    """
    has_truth = any(strip.mask for strip in strips)
    baselines = (
        make_baselines(detector.measured.get("rival_sigmas", {}), detector.device)
        if has_truth
        else {}
    )
    baselines.pop(detector.name, None)
    return evaluate(
        detector.predictor,
        strips,
        detector.input_max,
        on_strip=StripWriter(output_dir, pictures_per_kind),
        rules=rules,
        baselines=baselines,
    )


def write_everything(
    output_dir: Path,
    detector: Detector,
    result: Evaluation,
    threshold: Threshold,
    settings: dict[str, Any],
) -> list[str]:
    """All files but those of each strip; returns the warnings of strips that are unlike those that
    were trained on.
    """
    statistics = [scored.statistics for scored in result.results]
    drift = drift_warnings(statistics, detector.measured.get("channel_ranges", {}))
    write_results(output_dir, result, threshold, drift)
    write_report(output_dir / REPORT, result, threshold, drift, settings)
    return drift


def settings_shown(
    detector: Detector, folder: Path, arguments: argparse.Namespace
) -> dict[str, str]:
    shown = ("min_area", "polarity", "match_radius", "dead_pixels", "ignore_mask", "mask_channel")
    settings = {
        "detector": detector.name,
        "device": str(detector.predictor.device),
        "strips": str(folder.absolute()),
    }
    settings |= {
        name: str(getattr(arguments, name))
        for name in shown
        if getattr(arguments, name) is not None
    }
    return settings | {"scored": datetime.now().astimezone().isoformat(timespec="seconds")}


def describe_result(result: Evaluation) -> list[str]:
    """The figures; how many strips are OK and NG; and, where it is known what is a defect, what the
    threshold finds and reports.
    """
    verdicts = [scored.verdict for scored in result.results]
    lines = [*describe_figures(result.figures), *describe_baselines(result)]
    lines += [f"verdicts: {verdicts.count('OK')} OK, {verdicts.count('NG')} NG"]
    measured = result.at_threshold()
    if measured["false_alarms_per_strip"] is not None:
        recall = (
            "no true point to find"
            if measured["recall"] is None
            else f"{measured['recall']:.4f} of the true points found"
        )
        lines.append(
            f"above the threshold: {recall}, {measured['false_alarms_per_strip']:.3g} false alarms per strip"
        )
    return lines


def calibrated(
    detector: Detector, folder: Path, img_format: str | None, ignored: IgnoredRegions
) -> Detector:
    """The detector with a threshold set on the good strips of a folder.

    Raises `UserError` when they cannot be used.
    """
    if detector.trained_on and folder.resolve() == Path(detector.trained_on).resolve():
        print(
            f"warning: {folder}: found the strips of the training, expected others", file=sys.stderr
        )
    strips = list_strips(folder, img_format, use_masks=False)
    good = good_strips(strips) or [strip for strip in strips if strip.kind is None]
    if not good:
        raise UserError(
            f"{folder}: found no good strips, expected a folder `good` or a folder of good strips"
        )
    verification = verify_strips(good, detector.input_max, detector.patch, detector.image_size)
    if verification.problems:
        raise UserError(f"--good_path: {verification.problems[0]}")
    calibration = calibrate_on(detector.predictor, verification.usable, detector.input_max, ignored)
    return replace(
        detector,
        measured=detector.measured | {"calibration": calibration},
        calibrated_on=f"set on {folder}",
    )
