"""What a scored folder gives, in lines for the terminal and the report."""

import unicodedata

from evaluation.metrics import FALSE_ALARM_RATES, GROUP_METRICS
from evaluation.ranks import RankRecall
from evaluation.results import Evaluation, Figures
from ops.inspected_contrast import FOUND
from ops.likelihood import POINT_SIGMA
from reporting.tables import MISSING


def describe_result(result: Evaluation) -> list[str]:
    """Lines for the terminal: metrics, baselines, groups, and the numbers of OK and NG strips.

    Where the defects are known, a last line gives the recall and the false alarms at the threshold.
    """
    verdicts = [strip_result.verdict for strip_result in result.results]
    lines = [*describe_figures(result.figures), *describe_baselines(result)]
    lines += describe_ranks(result.metrics.ranks.compute(), result.defect)
    lines += describe_groups(result)
    lines += [f"verdicts: {verdicts.count('OK')} OK, {verdicts.count('NG')} NG"]
    lines += describe_contrast(result)
    if result.tells_kinds:
        lines.append(f"detections: {format_kinds(result)}")
    measured = result.at_threshold()
    if measured["false_alarms_per_strip"] is not None:
        recall = (
            f"no true {result.defect} to find"
            if measured["recall"] is None
            else f"{measured['recall']:.4f} of the true {result.defect}s found"
        )
        lines.append(
            f"above the threshold: {recall}, "
            f"{measured['false_alarms_per_strip']:.3g} false alarms per {result.unit}"
        )
    return lines


def describe_figures(figures: Figures) -> list[str]:
    """One line per metric; the line of an undefined metric says which strips it needs."""
    lines = []
    for name, value in figures.items():
        missing = f"not defined: {MISSING[name.split('_')[0]]}" if value is None else ""
        lines.append(f"{name.replace('_', ' '):26}{missing or f'{value:.4f}'}")
    return lines


def describe_ranks(recalls: list[RankRecall], defect: str = "point") -> list[str]:
    """One line with the known points among the strongest detections of the folder, or none.

    `defect` is the name of what is known.
    """
    if not recalls:
        return []
    ranks = ", ".join(str(entry.k) for entry in recalls)
    found = ", ".join(str(entry.found) for entry in recalls)
    total = recalls[0].truths
    return [f"known {defect}s among the {ranks} strongest detections: {found} of {total}"]


def describe_baselines(result: Evaluation) -> list[str]:
    """Lines with the recall of the predictor and its baselines at FALSE_ALARM_RATES.

    Empty without baselines, and when no strip has true points.
    """
    if not result.baselines or not result.metrics.points.truths:
        return []
    rates = ", ".join(f"{rate:g}" for rate in FALSE_ALARM_RATES)
    lines = [
        f"recall of {result.metrics.points.truths} true {result.defect}s at {rates} "
        f"false alarms per {result.unit}:"
    ]
    width = max(map(len, result.metrics_by_detector)) + 2
    for name, metrics in result.figures_by_detector.items():
        values = [metrics[f"point_recall_at_{rate:g}"] for rate in FALSE_ALARM_RATES]
        lines.append(f"  {name:{width}}{'  '.join(f'{value:.3f}' for value in values)}")
    return lines


def describe_groups(result: Evaluation) -> list[str]:
    """Lines with the GROUP_METRICS of each group of pictures and their means; none without."""
    if not result.groups:
        return []
    rows = {**result.figures_by_group, "mean over groups": result.mean_over_groups}
    width = max(map(_columns, (*rows, "group"))) + 2
    titles = "  ".join(name.replace("_", " ") for name in GROUP_METRICS)
    lines = [f"  {'group':{width}}{titles}"]
    for name, figures in rows.items():
        values = (
            f"{'-' if figures[metric] is None else f'{figures[metric]:.4f}':{len(metric)}}"
            for metric in GROUP_METRICS
        )
        lines.append(f"  {name}{' ' * (width - _columns(name))}{'  '.join(values)}".rstrip())
    return lines


def _columns(text: str) -> int:
    """The columns of a terminal that a text takes: two for each Chinese character."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def describe_contrast(result: Evaluation) -> list[str]:
    """A line on the inspected contrasts of the strips; none where they are not known."""
    contrasts = result.inspected_contrast()
    if contrasts["worst"] is None:
        return []
    line = (
        f"inspected down to {contrasts['median']:.3g} grey levels (median), "
        f"{contrasts['worst']:.3g} on the worst strip: {100 * FOUND:g} % of points of "
        f"{POINT_SIGMA:g} px with that contrast are found"
    )
    blind = contrasts["blind"]
    return [f"{line}; NG for their contrast: {blind}" if blind else line]


def format_kinds(result: Evaluation) -> str:
    """The number of detections of each kind; empty where kinds are not asked."""
    counts = result.kinds().items()
    return ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts)
