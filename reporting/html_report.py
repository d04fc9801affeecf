"""The HTML report on a scored folder.

It is one self-contained file: it opens from disk and loads nothing from a network.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from common.files import atomic_write
from common.numbers import three_digits
from data.image_files import CHANNEL_NAMES
from evaluation.metrics import FALSE_ALARM_RATES, GROUP_METRICS
from evaluation.operating_points import OperatingPoint, operating_points, threshold_doubts
from evaluation.ranks import RankRecall
from evaluation.results import Evaluation, StripResult
from evaluation.thresholds import Threshold
from reporting.case_figures import case_figures, shown_file
from reporting.charts import MAXIMUM, froc_chart, score_histograms
from reporting.descriptions import describe_contrast, format_kinds
from reporting.pictures import DETECTED, TRUTH
from reporting.tables import MISSING, NEEDS_TRUTHS, contrasts_of
from reporting.templating import render

MEAN = "mean over groups"
UNKNOWN = "\N{EN DASH}"
GROUPS_OF_STRIPS = {False: "good", True: "defective", None: "unknown"}
NEEDS_KNOWN = "needs good strips, or defective ones with masks"
# what a metric needs, by the first word of its name
REASONS = MISSING | {"recall": NEEDS_TRUTHS, "false": NEEDS_KNOWN}
COMPARED_METRICS = (
    *(f"point_recall_at_{rate:g}" for rate in FALSE_ALARM_RATES),
    "pixel_average_precision",
    "image_auroc",
)
MOST_ROWS = 2000  # strips in the table: more of them make the page slow, and nobody reads them
# mistakes first, then NG, then by score: which strips are in the table where not all are
FIRST_OUTCOMES = ("overkill", "escaped")


@dataclass(frozen=True)
class ShownMetric:
    """A metric under the report's name; `needs` says what an undefined one lacks."""

    name: str
    value: float | None
    needs: str


def write_report(
    path: Path,
    result: Evaluation,
    threshold: Threshold,
    drift: list[str],
    subject: dict[str, str],
    settings: dict[str, object],
) -> None:
    """Write the report on a folder that was scored at `threshold`.

    It shows verdicts, warnings, detections as pictures, metrics, curves and the strips. `subject`
    names what was scored and with what, `drift` holds warning sentences, `settings` the run's
    settings by name. The report links panels that lie beside `path`. Text need be neither escaped
    nor valid Unicode. Raises `UserError` when the file cannot be written.
    """
    folder, cases = path.parent, result.worst_cases
    metrics, kinds = _metrics(result), format_kinds(result)
    points = operating_points(result, threshold.value)
    has_references = result.has_references
    page = render(
        "report.html",
        has_references=has_references,
        unit=result.unit,
        defects=f"{result.defect}s",
        captions=cases.captions or (CHANNEL_NAMES if has_references else ("picture",)),
        groups=_groups(result),
        subject=subject
        | {"threshold": threshold.describe().removeprefix("threshold ")}
        | ({"detections": kinds} if kinds else {}),
        warnings=[*threshold_doubts(result, threshold), *result.warnings],
        drift=drift,
        problems=result.problems,
        rejected=sum(scored.verdict == "NG" for scored in result.results),
        inspected=describe_contrast(result),
        outcomes=_outcomes(result),
        metrics=[shown for shown in metrics if shown.value is not None],
        undefined=_undefined(metrics, result),
        recalls=result.point_recalls,
        rates=FALSE_ALARM_RATES,
        detectors=_detector_metrics(result),
        ranks=_ranks(result),
        froc=_froc(result),
        histograms=_histograms(result, threshold),
        points=json.dumps([_operating_row(point) for point in points]),
        position=[point.threshold for point in points].index(threshold.value) if points else 0,
        is_filtered=_is_filtered(result, points, threshold),
        requires_contrast="require_contrast" in settings,
        misses=case_figures(cases.misses, TRUTH, folder),
        false_alarms=case_figures(cases.false_alarms, DETECTED, folder),
        hits=case_figures(cases.hits, TRUTH, folder),
        strongest=case_figures(cases.strongest, DETECTED, folder),
        below_threshold=case_figures(cases.below_threshold, DETECTED, folder),
        truths=result.metrics.points.truths,
        known_strips=result.metrics.points.strips,
        strips=[_strip_row(scored, folder) for scored in _rows_shown(result.results)],
        scored=len(result.results),
        unknown=UNKNOWN,
        settings=settings,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _metrics(result: Evaluation) -> list[ShownMetric]:
    """The metrics that are one number: first those at the threshold, then the others."""
    at_threshold = result.at_threshold().items()
    others = result.figures.items()
    return [
        *(
            _shown(f"{name.replace('strip', result.unit)} at the threshold", value)
            for name, value in at_threshold
        ),
        *(_shown(name, value) for name, value in others if not name.startswith("point")),
    ]


def _undefined(metrics: list[ShownMetric], result: Evaluation) -> str:
    """One line with everything that is not defined and what it needs; empty where all is."""
    lacking: dict[str, list[str]] = {}
    for shown in metrics:
        if shown.value is None:
            lacking.setdefault(shown.needs, []).append(shown.name)
    if not result.metrics.points.truths:
        lacking.setdefault(NEEDS_TRUTHS, []).append("recall against false alarms")
    return "; ".join(f"{', '.join(names)} ({needs})" for needs, names in lacking.items())


def _outcomes(result: Evaluation) -> dict[str, int]:
    """How many strips have each outcome, where the kind of some strip is known."""
    outcomes = [scored.outcome for scored in result.results]
    names = ("found", "escaped", "overkill", "passed")
    return {name: outcomes.count(name) for name in names} if any(outcomes) else {}


def _detector_metrics(result: Evaluation) -> dict[str, list[ShownMetric]]:
    """COMPARED_METRICS of the detector and its baselines, by name; empty without baselines."""
    if not result.baselines:
        return {}
    detectors = result.figures_by_detector.items()
    return {
        detector: [_shown(metric, values[metric]) for metric in COMPARED_METRICS]
        for detector, values in detectors
    }


def _shown(name: str, value: float | None) -> ShownMetric:
    """A metric by its name in metrics.json, with the label that the report shows."""
    label = re.sub("auroc|aupro", lambda found: found[0].upper(), name.replace("_", " "))
    first_word = re.match("[a-z]+", name)[0]
    return ShownMetric(label, value, REASONS[first_word])


def _operating_row(point: OperatingPoint) -> list[object]:
    """What the page shows of a threshold: its flag's value, and the counts as texts or numbers."""
    shares = (point.recall, point.false_alarms)
    return [
        f"{point.threshold:.9g}",
        point.rejected,
        point.overkill,
        point.escaped,
        *(None if share is None else three_digits(share) for share in shares),
    ]


def _is_filtered(result: Evaluation, points: list[OperatingPoint], threshold: Threshold) -> bool:
    """Whether verdicts differ from what the operating points count at the threshold.

    With references, --min_area or --polarity removes detections that these count. Pictures of
    several kinds have thresholds of their own.
    """
    rejected = sum(scored.verdict == "NG" for scored in result.results)
    return any(point.rejected != rejected for point in points if point.threshold == threshold.value)


def _groups(result: Evaluation) -> list[dict[str, object]]:
    """What the table of groups shows of each group and of their mean; empty without groups."""
    if not result.groups:
        return []
    rows = []
    for name, figures in (*result.figures_by_group.items(), (MEAN, result.mean_over_groups)):
        scored = [each for each in result.results if name in (MEAN, each.strip.group)]
        outcomes = [each.outcome for each in scored]
        rows.append(
            {
                "name": name,
                "pictures": len(scored),
                "overkill": outcomes.count("overkill"),
                "escaped": outcomes.count("escaped"),
                "metrics": [_shown(metric, figures[metric]) for metric in GROUP_METRICS],
            }
        )
    return rows


def _ranks(result: Evaluation) -> dict[str, list[RankRecall]]:
    """The known points among the strongest detections, by detector; empty without known points."""
    found = {name: metrics.ranks.compute() for name, metrics in result.metrics_by_detector.items()}
    return {name: recalls for name, recalls in found.items() if recalls}


def _froc(result: Evaluation) -> Markup | None:
    if not result.metrics.points.truths:
        return None
    curves = {name: metrics.points.curve() for name, metrics in result.metrics_by_detector.items()}
    return froc_chart(curves, FALSE_ALARM_RATES, result.unit)


def _histograms(result: Evaluation, threshold: Threshold) -> Markup | None:
    scores = {
        name: [scored.score for scored in result.results if scored.strip.is_defective is kind]
        for kind, name in GROUPS_OF_STRIPS.items()
    }
    scores = {name: values for name, values in scores.items() if values}
    if not scores:
        return None
    score = MAXIMUM if result.has_references else "that of the picture"
    return score_histograms(scores, threshold.value, result.unit, score)


def _rows_shown(results: list[StripResult]) -> list[StripResult]:
    """The strips in the table, in the order of the folder: all, or those that matter most."""
    if len(results) <= MOST_ROWS:
        return results

    def importance(at: int) -> tuple[bool, bool, float]:
        scored = results[at]
        return scored.outcome in FIRST_OUTCOMES, scored.verdict == "NG", scored.score

    chosen = sorted(range(len(results)), key=importance, reverse=True)[:MOST_ROWS]
    return [results[at] for at in sorted(chosen)]


def _strip_row(scored: StripResult, folder: Path) -> dict[str, object]:
    """What the table of strips shows of a strip."""
    strongest = scored.detections[0] if scored.detections else None
    return {
        "file": shown_file(scored.strip.relative, folder),
        "kind": scored.strip.kind,
        "verdict": scored.verdict,
        "outcome": scored.outcome,
        "score": scored.score,
        "detections": len(scored.detections),
        "strongest": strongest,
        "contrasts": contrasts_of(scored, strongest) if strongest else (),
        "inspected_contrast": scored.inspected_contrast,
        "is_blind": scored.is_blind,
    }
