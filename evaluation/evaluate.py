"""Evaluation of a predictor on strips: detections, verdicts and metrics.

Validation, calibration and the scoring of a folder call it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from common.distributed import SINGLE_PROCESS, ProcessGroup
from common.errors import UserError
from common.pipeline import WRITERS, Backlog, StageTimes, threads
from common.progress import progress_bar
from data.folder import StripFile, unit_of
from data.image_files import DEFAULT_INPUT_MAX
from data.labelled_strip import read_strip
from data.true_points import require_inside
from evaluation.detections import Detection, PackedDetections, detect, strongest
from evaluation.matching import defects_at, defects_in_mask, match
from evaluation.results import (
    INSPECTED_CONTRAST,
    Evaluation,
    GroundTruth,
    MetricSet,
    Rules,
    StripResult,
)
from evaluation.stream import (
    BatchPredictor,
    Prediction,
    Predictor,
    checked_heatmap,
    iter_predictions,
)
from evaluation.worst_cases import WorstCases

# called with the strip's number among the strips of its kind, counted from 1
OnStrip = Callable[[StripResult, Prediction, int], None]


def evaluate(
    predictor: Predictor | BatchPredictor,
    strips: list[StripFile],
    input_max: float = DEFAULT_INPUT_MAX,
    label: str = "scoring strips",
    use_masks: bool = True,
    processes: ProcessGroup = SINGLE_PROCESS,
    rules: Rules | None = None,
    baselines: dict[str, Predictor] | None = None,
    on_strip: OnStrip | None = None,
    load: Callable[[Any, float], tuple[np.ndarray, np.ndarray | None]] = read_strip,
) -> Evaluation:
    """Evaluate a predictor on every strip, or on pictures without references.

    A strip that cannot be used adds a line to `problems`, and the others go on. `baselines` are
    evaluated as well, for their metrics alone. `on_strip` is called in a thread for each strip, for
    instance to write files. With several `processes`, each evaluates its share, and all get the
    whole result. Only the detections of a strip are kept in memory. `load` reads a file's image and
    mask: `read_picture` where the files are pictures.
    """
    rules, baselines, kinds = rules or Rules(), baselines or {}, Counter()
    result = Evaluation(
        baselines={name: MetricSet() for name in baselines}, tells_kinds=rules.missing is not None
    )
    share, read = processes.share(strips), partial(load, input_max=input_max)
    predictions = iter_predictions(predictor, share, read, rules.ignored, result.times)
    progress = progress_bar(
        predictions,
        label,
        len(share),
        unit=unit_of(strips),
        disable=processes.hides_progress,
        leave=False,
    )
    with result.times.of_all(), threads(WRITERS) as writers:
        writing = Backlog(writers, 2 * WRITERS)
        for prediction in progress:
            if isinstance(prediction, UserError):
                result.problems.append(str(prediction))
                continue
            with result.times.of("post-processing"):
                try:
                    strip_result = _add_strip(result, prediction, rules, baselines, use_masks)
                except UserError as error:
                    result.problems.append(str(error))
                    continue
            kind = prediction.strip.kind
            kinds[kind] += 1
            if on_strip:
                writing.add(_timed(on_strip, result.times), strip_result, prediction, kinds[kind])
        writing.finish()
    return _gather(result, processes)


def _timed(on_strip: OnStrip, times: StageTimes) -> OnStrip:
    """Return a callback that counts the time of `on_strip` as writing."""

    def call(result: StripResult, prediction: Prediction, number: int) -> None:
        with times.of("writing"):
            on_strip(result, prediction, number)

    return call


def _add_strip(
    result: Evaluation,
    prediction: Prediction,
    rules: Rules,
    baselines: dict[str, Predictor],
    use_masks: bool,
) -> StripResult:
    """Add a strip to the result.

    Raises `UserError`, and adds nothing, if a baseline fails.
    """
    strip, image, heatmap = prediction.strip, prediction.image, prediction.heatmap
    ignored = prediction.ignored
    of_baselines = {
        name: checked_heatmap(strip, image, baseline, ignored)
        for name, baseline in baselines.items()
    }
    truth = _ground_truth(prediction, rules.patch) if use_masks else None
    result.update_metrics(strip, heatmap, prediction.score, truth, rules.match_radius)
    for name, (baseline_heatmap, score) in of_baselines.items():
        result.baselines[name].update(strip, baseline_heatmap, score, truth, rules.match_radius)
    strip_result = _apply_rules(prediction, truth, rules)
    result.results.append(strip_result)
    if rules.threshold:
        _keep_worst_cases(result.worst_cases, strip_result, prediction, truth)
    return strip_result


def _gather(result: Evaluation, processes: ProcessGroup) -> Evaluation:
    parts = processes.gather(result)
    if len(parts) == 1:
        return result
    whole = Evaluation(
        baselines={name: MetricSet() for name in result.baselines}, tells_kinds=result.tells_kinds
    )
    whole.results = [strip_result for part in parts for strip_result in part.results]
    whole.problems = [problem for part in parts for problem in part.problems]
    whole.warnings = [warning for part in parts for warning in part.warnings]
    whole.metrics.merge([part.metrics for part in parts])
    for name, metrics in whole.baselines.items():
        metrics.merge([part.baselines[name] for part in parts])
    for name in sorted({name for part in parts for name in part.groups}):
        whole.groups[name] = MetricSet()
        whole.groups[name].merge([part.groups[name] for part in parts if name in part.groups])
    whole.worst_cases.merge([part.worst_cases for part in parts])
    whole.times.merge([part.times for part in parts])
    return whole


def _ground_truth(prediction: Prediction, patch: int | None) -> GroundTruth | None:
    """Return the truth about a strip from its mask or its points, None where there is neither."""
    image, mask, ignored = prediction.image, prediction.mask, prediction.ignored
    if mask is not None:
        counted = mask if ignored is None else mask & ~ignored
        defects = defects_in_mask(counted, image, patch, prediction.strip.has_references)
        return GroundTruth(counted, *defects, ignored)
    points = prediction.strip.points
    if points is None:
        return None
    require_inside(points, image.shape[1:])
    counted = [(y, x) for y, x in points if ignored is None or not ignored[round(y), round(x)]]
    defects = defects_at(counted, image, patch, prediction.strip.has_references)
    return GroundTruth(None, defects, None, ignored)


def _apply_rules(prediction: Prediction, truth: GroundTruth | None, rules: Rules) -> StripResult:
    image, heatmap = prediction.image, prediction.heatmap
    result = StripResult(
        prediction.strip, prediction.score, truths=len(truth.truths) if truth else None
    )
    if rules.threshold is None:
        return result
    measure = rules.choose_measure(prediction.strip) if rules.choose_measure else rules.measure
    if measure:
        result.statistics = measure(image, prediction.ignored)
        result.inspected_contrast = result.statistics.pop(INSPECTED_CONTRAST, None)
    if rules.required_contrast is not None and result.inspected_contrast is not None:
        # `not <=` instead of `>`, so that NaN is blind, too
        result.is_blind = not result.inspected_contrast <= rules.required_contrast
    threshold = rules.threshold.value if prediction.threshold is None else prediction.threshold
    if rules.verdict_by_score:
        result.is_above = prediction.score > threshold
    missing = rules.missing(image) if rules.missing else None
    has_references = prediction.strip.has_references
    if result.is_above is not False:
        polarity = rules.polarity
        result.detections = PackedDetections(
            detect(heatmap, image, threshold, rules.min_area, polarity, missing, has_references)
        )
    if rules.candidates:
        result.candidates = PackedDetections(
            strongest(heatmap, image, rules.candidates, rules.polarity, has_references)
        )
    if truth:
        result.found = _match(result.detections, truth, rules.match_radius)
        result.found_by_candidates = _match(result.candidates, truth, rules.match_radius)
    return result


def _match(detections: Sequence[Detection], truth: GroundTruth, radius: float) -> np.ndarray:
    """Return `match` of detections, in few bytes."""
    points = np.array([(detection.y, detection.x) for detection in detections], dtype=np.int64)
    return match(points.reshape(-1, 2), truth.truths, truth.labels, radius).astype(np.int32)


def _keep_worst_cases(
    worst_cases: WorstCases,
    result: StripResult,
    prediction: Prediction,
    truth: GroundTruth | None,
) -> None:
    detections = result.detections
    if not truth and detections:
        worst_cases.add_strongest(prediction, detections[0], len(detections) - 1)
    elif not truth:
        worst_cases.add_below_threshold(prediction)
    else:
        for number, true_defect in enumerate(truth.truths):
            if not (result.found == number).any():
                worst_cases.add_miss(prediction, true_defect)
        for detection, status in zip(detections, result.statuses):
            if status == "false alarm":
                worst_cases.add_false_alarm(prediction, detection)
            elif status == "hit":
                worst_cases.add_hit(prediction, detection)
