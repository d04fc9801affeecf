"""A predictor run over strips: detections, verdicts and figures.

Both inference scripts and the trainer are thin around it.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
from tqdm import tqdm

from common.distributed import SINGLE_PROCESS, ProcessGroup
from common.errors import UserError
from common.pipeline import WRITERS, Backlog, StageTimes, threads
from data.folder import StripFile
from data.image_files import DEFAULT_INPUT_MAX
from data.labelled_strip import read_strip
from evaluation.detections import PackedDetections, detect
from evaluation.matching import FALSE_ALARM, defects_in_mask, match
from evaluation.results import Evaluation, GroundTruth, MetricSet, Rules, StripResult
from evaluation.stream import (
    BatchPredictor,
    Prediction,
    Predictor,
    checked_heatmap,
    iter_predictions,
)
from evaluation.worst_cases import WorstCases

# called with the how manieth of its kind the strip is, counted from 1
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
) -> Evaluation:
    """Score every strip by its heatmap's maximum.

    What is wrong with one strip ends up in `problems`; the others go on.

    `baselines` are scored beside the predictor, for their figures alone. `on_strip` is called for
    each strip in a thread, such as to write files. With several `processes` each scores its share,
    and all of them get the whole result. Of a strip only its detections are kept.
    """
    rules, baselines, seen = rules or Rules(), baselines or {}, Counter()
    result = Evaluation(baselines={name: MetricSet() for name in baselines})
    share, load = processes.share(strips), partial(read_strip, input_max=input_max)
    answers = iter_predictions(predictor, share, load, rules.ignored, result.times)
    progress = tqdm(
        answers, label, len(share), unit="strip", disable=processes.hides_progress, leave=False
    )
    with result.times.of_all(), threads(WRITERS) as writers:
        writing = Backlog(writers, 2 * WRITERS)
        for answer in progress:
            if isinstance(answer, UserError):
                result.problems.append(str(answer))
                continue
            with result.times.of("post-processing"):
                try:
                    scored = _score(result, answer, rules, baselines, use_masks)
                except UserError as error:
                    result.problems.append(str(error))
                    continue
            seen[answer.strip.kind] += 1
            if on_strip:
                writing.add(_timed(on_strip, result.times), scored, answer, seen[answer.strip.kind])
        writing.finish()
    return _gather(result, processes)


def _timed(on_strip: OnStrip, times: StageTimes) -> OnStrip:
    """The same callback, whose time counts as writing."""

    def call(result: StripResult, answer: Prediction, number: int) -> None:
        with times.of("writing"):
            on_strip(result, answer, number)

    return call


def _score(
    result: Evaluation,
    answer: Prediction,
    rules: Rules,
    baselines: dict[str, Predictor],
    use_masks: bool,
) -> StripResult:
    """Enter a strip into the result.

    Raises `UserError`, and enters nothing, for a baseline that cannot answer.
    """
    strip, image, heatmap = answer.strip, answer.image, answer.heatmap
    baseline_heatmaps = {
        name: checked_heatmap(strip, image, baseline, answer.ignored)
        for name, baseline in baselines.items()
    }
    known = use_masks and answer.mask is not None
    truth = _ground_truth(image, answer.mask, answer.ignored, rules.patch) if known else None
    result.board.update(strip, heatmap, truth, rules.match_radius)
    for name, baseline_heatmap in baseline_heatmaps.items():
        result.baselines[name].update(strip, baseline_heatmap, truth, rules.match_radius)
    scored = _apply_rules(strip, image, heatmap, truth, rules)
    result.results.append(scored)
    _keep_worst_cases(result.gallery, scored, image, heatmap, truth)
    return scored


def _gather(result: Evaluation, processes: ProcessGroup) -> Evaluation:
    parts = processes.gather(result)
    if len(parts) == 1:
        return result
    whole = Evaluation(baselines={name: MetricSet() for name in result.baselines})
    whole.results = [scored for part in parts for scored in part.results]
    whole.problems = [problem for part in parts for problem in part.problems]
    whole.board.merge([part.board for part in parts])
    for name, board in whole.baselines.items():
        board.merge([part.baselines[name] for part in parts])
    whole.gallery.merge([part.gallery for part in parts])
    whole.times.merge([part.times for part in parts])
    return whole


def _ground_truth(
    image: np.ndarray, mask: np.ndarray, ignored: np.ndarray | None, patch: int | None
) -> GroundTruth:
    counted = mask if ignored is None else mask & ~ignored
    return GroundTruth(counted, *defects_in_mask(counted, image, patch), ignored)


def _apply_rules(
    strip: StripFile,
    image: np.ndarray,
    heatmap: np.ndarray,
    truth: GroundTruth | None,
    rules: Rules,
) -> StripResult:
    result = StripResult(strip, float(heatmap.max()), truths=len(truth.truths) if truth else None)
    if rules.threshold is None:
        return result
    if rules.measure:
        result.statistics = rules.measure(image)
    result.detections = PackedDetections(
        detect(heatmap, image, rules.threshold.value, rules.min_area, rules.polarity)
    )
    if truth:
        points = np.array([(detection.y, detection.x) for detection in result.detections]).reshape(
            -1, 2
        )
        result.found = match(points, truth.truths, truth.labels, rules.match_radius).astype(
            np.int32
        )
    return result


def _keep_worst_cases(
    gallery: WorstCases,
    result: StripResult,
    image: np.ndarray,
    heatmap: np.ndarray,
    truth: GroundTruth | None,
) -> None:
    if not truth or result.found is None:
        return
    file = result.strip.relative.as_posix()
    for number, true_defect in enumerate(truth.truths):
        if not (result.found == number).any():
            gallery.add_miss(file, true_defect, image, heatmap)
    for detection, number in zip(result.detections, result.found):
        if number == FALSE_ALARM:
            gallery.add_false_alarm(file, detection, image, heatmap)
