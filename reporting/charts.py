"""The report's charts: inline SVG without script; the page's style sheet sets colours and fonts."""

from collections.abc import Callable

import numpy as np
from markupsafe import Markup

from evaluation.detections import LOGIT_RANGE, logit_margin
from reporting.templating import render

# matplotlib is not used: its SVG has fixed colours even on a dark page, no tooltips and ids that
# collide on one page. It takes 400 ms and 48 kB for both charts instead of 5 ms and 7 kB.

# lengths in SVG units, which the page scales: the chart's width, the margins beside its axes
WIDTH, LEFT, RIGHT = 480, 52, 12
FROC_HEIGHT, FROC_TOP, FROC_BOTTOM = 280, 10, 44
FROC_RATES = (0.01, 10.0)  # ends of the axis, false alarms per strip
SERIES_STYLES = 6  # series styles in the style sheet; further series repeat them
BINS = 40  # bins of a histogram
MIN_LOGIT_SPAN = 4.0  # smallest width of a histogram's axis, in logits
ROW, ROW_GAP, HISTOGRAM_TOP, HISTOGRAM_BOTTOM = 84, 30, 40, 44
MIN_TICK_DISTANCE = 58  # between two labels of the probability axis, so that they do not overlap
TICKS = (  # probabilities, the most important first
    *("0", "1", "0.5", "0.01", "0.99", "0.0001", "0.9999", "0.000001", "0.999999"),
    *("0.1", "0.9", "0.001", "0.999", "0.2", "0.8", "0.05", "0.95", "0.3", "0.7"),
    *("0.02", "0.98", "0.4", "0.6", "0.005", "0.995", "0.00001", "0.99999"),
)

# what the templates of such a chart are given: its size and the edges of its axes
FROC_FRAME = {
    "width": WIDTH,
    "height": FROC_HEIGHT,
    "left": LEFT,
    "right": WIDTH - RIGHT,
    "top": FROC_TOP,
    "bottom": FROC_HEIGHT - FROC_BOTTOM,
}
MAXIMUM = "the highest value of the strip's heatmap"
# false alarms per strip (N,), ascending, and the recall (N,) that holds from each rate on
Curve = tuple[np.ndarray, np.ndarray]
Scale = Callable[[float], float]


def froc_chart(
    curves: dict[str, Curve], marked_rates: tuple[float, ...], unit: str = "strip"
) -> Markup:
    """Draw recall over false alarms per strip, on a logarithmic axis.

    `curves` holds a step curve per detector; its names need not be escaped. Points mark each curve
    at `marked_rates`. False alarms are counted per `unit`.
    """
    right, bottom = FROC_FRAME["right"], FROC_FRAME["bottom"]
    x_of = _linear_scale(*np.log10(FROC_RATES), LEFT, right)
    y_of = _linear_scale(0, 1, bottom, FROC_TOP)
    # one step per unit: finer ones are invisible, and the path's length does not grow with strips
    columns = np.arange(LEFT, right + 1)
    rates = 10 ** np.interp(columns, (LEFT, right), np.log10(FROC_RATES))
    all_series = []
    for number, (name, curve) in enumerate(curves.items()):
        recalls = recall_at(curve, np.array(marked_rates))
        marks = [
            {"x": x_of(np.log10(rate)), "y": y_of(recall), "rate": rate, "recall": recall}
            for rate, recall in zip(marked_rates, recalls)
        ]
        path = _steps(columns, y_of(recall_at(curve, rates)))
        all_series.append(
            {"name": name, "style": number % SERIES_STYLES, "path": path, "marks": marks}
        )
    return render(
        "froc.html",
        **FROC_FRAME,
        rate_ticks=[(x_of(decade), 10.0**decade) for decade in range(-2, 2)],
        recall_ticks=[(y_of(recall), recall) for recall in np.linspace(0, 1, 6)],
        all_series=all_series,
        unit=unit,
    )


def recall_at(curve: Curve, rates: np.ndarray) -> np.ndarray:
    """The recall of a curve at rates (N,) of false alarms per strip; shape (N,)."""
    return curve[1][np.searchsorted(curve[0], rates + 1e-9, side="right") - 1]


def score_histograms(
    scores: dict[str, list[float]], threshold: float, unit: str = "strip", score: str = MAXIMUM
) -> Markup:
    """Draw histograms of probabilities 0-1, one below the other, with a line at `threshold`.

    Each series needs at least one value. Bins are equally wide in logits. `unit` is the name of
    what has a score, and `score` says what the score is.
    """
    margins = {name: logit_margin(values) for name, values in scores.items()}
    cut = float(logit_margin(threshold))
    low, high = _shown_range(np.concatenate([[cut], *margins.values()]))
    x_of = _linear_scale(low, high, LEFT, WIDTH - RIGHT)
    height = HISTOGRAM_TOP + len(scores) * (ROW + ROW_GAP) - ROW_GAP + HISTOGRAM_BOTTOM
    rows = []
    for number, (name, values) in enumerate(margins.items()):
        counts, edges = np.histogram(values, BINS, (low, high))
        top = HISTOGRAM_TOP + number * (ROW + ROW_GAP)
        row = {"name": name, "strips": len(values), "highest": counts.max()}
        bars = _bars(counts, x_of(edges), top)
        rows.append(row | {"top": top, "base": top + ROW, "bars": bars})
    return render(
        "histograms.html",
        width=WIDTH,
        height=height,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=HISTOGRAM_TOP,
        bottom=height - HISTOGRAM_BOTTOM,
        ticks=_probability_ticks(low, high, x_of),
        rows=rows,
        strips=sum(map(len, scores.values())),
        low=low,
        high=high,
        cut=x_of(cut),
        threshold=threshold,
        unit=unit,
        score=score,
    )


def reliability_chart(bins: list[dict[str, float]], unit: str) -> Markup:
    """Draw how many are right over how sure the model was, with the diagonal that is ideal.

    Each of `bins` has `low`, `high`, `confidence` and `accuracy`, 0-1, and the `count` of its
    images or strips, whose name is `unit`.
    """
    right, bottom = FROC_FRAME["right"], FROC_FRAME["bottom"]
    x_of = _linear_scale(0, 1, LEFT, right)
    y_of = _linear_scale(0, 1, bottom, FROC_TOP)
    places = [
        {
            "x": x_of(one["low"]) + 1,
            "y": y_of(one["accuracy"]),
            "width": x_of(one["high"]) - x_of(one["low"]) - 2,
            "mark": (x_of(one["confidence"]), y_of(one["accuracy"])),
        }
        for one in bins
    ]
    return render(
        "reliability.html",
        **FROC_FRAME,
        ticks=[(x_of(share), y_of(share), share) for share in np.linspace(0, 1, 6)],
        bins=[one | place for one, place in zip(bins, places)],
        unit=unit,
    )


def _bars(counts: np.ndarray, edges: np.ndarray, top: float) -> list[dict[str, float]]:
    """The non-empty bars; the highest one ends just below `top`."""
    y_of = _linear_scale(0, counts.max(), top + ROW, top + 4)
    return [
        {"x": left, "y": y_of(count), "width": right - left - 1, "count": count}
        for count, left, right in zip(counts, edges, edges[1:])
        if count
    ]


def _shown_range(margins: np.ndarray) -> tuple[float, float]:
    """The range of the margins, with the width of a bin added on either side."""
    low, high = float(margins.min()), float(margins.max())
    widening = max(0.0, MIN_LOGIT_SPAN - (high - low)) / 2 + (high - low) / BINS
    return low - widening, high + widening


def _probability_ticks(low: float, high: float, x_of: Scale) -> list[tuple[float, str]]:
    """The x and the label of each tick, at least MIN_TICK_DISTANCE apart.

    The labels 0 and 1 stand at the ends of the range to which logits are clipped.
    """
    ticks: list[tuple[float, str]] = []
    for label in TICKS:
        margin = float(logit_margin(float(label)))
        x = x_of(margin)
        is_free = all(abs(x - other) >= MIN_TICK_DISTANCE for other, _ in ticks)
        if low <= margin <= high and abs(margin) <= LOGIT_RANGE and is_free:
            ticks.append((x, label))
    return ticks


def _linear_scale(low: float, high: float, start: float, end: float) -> Scale:
    """The linear map that takes `low` to `start` and `high` to `end`."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _steps(columns: np.ndarray, heights: np.ndarray) -> str:
    """An SVG step path through `columns` (N,) at `heights` (N,), with corners at changes only."""
    changes = np.flatnonzero(np.diff(heights)) + 1
    corners = "".join(f"H{columns[at]}V{heights[at]:.1f}" for at in changes)
    return f"M{columns[0]} {heights[0]:.1f}{corners}H{columns[-1]}"
