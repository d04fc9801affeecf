"""The report's charts as inline SVG, drawn by hand: no library and no script; colours and fonts are the page's style sheet's."""

import html
from collections.abc import Callable

import numpy as np

from evaluation.detections import LOGIT_RANGE, logit_margin

WIDTH, LEFT, RIGHT = 640, 52, 12  # of a chart and of what stands beside its axes, in units that the page scales
FROC_HEIGHT, FROC_TOP, FROC_BOTTOM = 330, 10, 44
FROC_RATES = (0.01, 10.0)  # false alarms per strip, ends of the axis
SERIES = 6  # series that the style sheet tells apart; further ones repeat
BINS = 40  # of a histogram
NARROWEST = 4.0  # logits that a histogram shows at least
ROW, ROW_GAP, HISTOGRAM_TOP, HISTOGRAM_BOTTOM = 84, 30, 40, 44
TICK_DISTANCE = 58  # at least, between two labels on the probability axis
TICKS = (  # probabilities, those that matter most first
    *("0", "1", "0.5", "0.01", "0.99", "0.0001", "0.9999", "0.000001", "0.999999", "0.1", "0.9", "0.001", "0.999"),
    *("0.2", "0.8", "0.05", "0.95", "0.3", "0.7", "0.02", "0.98", "0.4", "0.6", "0.005", "0.995", "0.00001", "0.99999"),
)

Curve = tuple[np.ndarray, np.ndarray]  # false alarms per strip, ascending, and the recall that holds from each on
Position = Callable[[float], float]


def froc_chart(curves: dict[str, Curve], marked_rates: tuple[float, ...]) -> str:
    """Recall against false alarms per strip, on a logarithmic axis, as steps; points mark the rates. Names need not be escaped."""
    bottom = FROC_HEIGHT - FROC_BOTTOM
    x_of = _position(*np.log10(FROC_RATES), LEFT, WIDTH - RIGHT)
    y_of = _position(0, 1, bottom, FROC_TOP)
    shapes = []
    for decade in range(-2, 2):
        shapes += [
            _line("grid", x_of(decade), FROC_TOP, x_of(decade), bottom),
            _text(x_of(decade), bottom + 18, f"{10.0**decade:g}"),
        ]
    for recall in np.linspace(0, 1, 6):
        shapes += [
            _line("grid", LEFT, y_of(recall), WIDTH - RIGHT, y_of(recall)),
            _text(LEFT - 8, y_of(recall) + 4, f"{recall:.1f}", "end"),
        ]
    for number, (name, curve) in reversed(list(enumerate(curves.items()))):  # the first one ends up on top
        columns = np.arange(LEFT, WIDTH - RIGHT + 1)  # one step a unit is as fine as can be seen, however many strips there are
        rates = 10 ** np.interp(columns, (LEFT, WIDTH - RIGHT), np.log10(FROC_RATES))
        shapes.append(f'<path class="curve series-{number % SERIES}" d="{_steps(columns, y_of(recall_at(curve, rates)))}"/>')
        for rate in marked_rates:
            recall = float(recall_at(curve, np.array(rate)))
            title = f"{html.escape(name)}: recall {recall:.3f} at {rate:g} false alarms per strip"
            center = f'cx="{x_of(np.log10(rate)):.1f}" cy="{y_of(recall):.1f}"'
            shapes.append(f'<circle class="mark series-{number % SERIES}" {center} r="4"><title>{title}</title></circle>')
    shapes.append(_text((LEFT + WIDTH - RIGHT) / 2, FROC_HEIGHT - 6, "false alarms per strip"))
    shapes.append(f'<text transform="translate(14 {(FROC_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">recall</text>')
    return _svg(FROC_HEIGHT, "Recall against false alarms per strip", shapes) + _legend(list(curves))


def recall_at(curve: Curve, rates: np.ndarray) -> np.ndarray:
    """The recall that a curve allows at rates of false alarms per strip."""
    return curve[1][np.searchsorted(curve[0], rates + 1e-9, side="right") - 1]


def score_histograms(scores: dict[str, list[float]], threshold: float) -> str:
    """Histograms, one below the other, of series of at least one probability 0-1; bins are equally wide in their logits."""
    margins = {name: logit_margin(values) for name, values in scores.items()}
    cut = float(logit_margin(threshold))
    low, high = _shown_range(np.concatenate([[cut], *margins.values()]))
    x_of = _position(low, high, LEFT, WIDTH - RIGHT)
    height = HISTOGRAM_TOP + len(scores) * (ROW + ROW_GAP) - ROW_GAP + HISTOGRAM_BOTTOM
    bottom = height - HISTOGRAM_BOTTOM
    shapes = []
    for margin, label in _probability_ticks(low, high, x_of):
        shapes += [_line("grid", x_of(margin), HISTOGRAM_TOP - 14, x_of(margin), bottom), _text(x_of(margin), bottom + 18, label)]
    for number, (name, values) in enumerate(margins.items()):
        counts, edges = np.histogram(values, BINS, (low, high))
        shapes += _bars(counts, x_of(edges), HISTOGRAM_TOP + number * (ROW + ROW_GAP), f"{name} ({len(values)})", name)
    near_right = x_of(cut) > WIDTH / 2
    shapes.append(_line("threshold", x_of(cut), HISTOGRAM_TOP - 24, x_of(cut), bottom))
    shapes.append(_text(x_of(cut) + (-6 if near_right else 6), 14, f"threshold {threshold:.4g}", "end" if near_right else "start"))
    shapes.append(_text((LEFT + WIDTH - RIGHT) / 2, height - 6, "score: the highest value of the strip's heatmap"))
    return _svg(height, "Histograms of the strips' scores", shapes)


def _bars(counts: np.ndarray, edges: np.ndarray, top: float, label: str, name: str) -> list[str]:
    base = top + ROW
    y_of = _position(0, counts.max(), base, top + 4)
    shapes = [
        f'<rect class="bar {html.escape(name)}" x="{left:.1f}" y="{y_of(count):.1f}" width="{right - left - 1:.1f}" '
        f'height="{base - y_of(count):.1f}"><title>{count} strips</title></rect>'
        for count, left, right in zip(counts, edges, edges[1:])
        if count
    ]
    return [
        *shapes,
        _line("axis", LEFT, base, WIDTH - RIGHT, base),
        _text(LEFT - 8, base + 4, "0", "end"),
        _text(LEFT - 8, top + 8, str(counts.max()), "end"),
        _text(LEFT, top - 4, label, "start"),
    ]


def _shown_range(margins: np.ndarray) -> tuple[float, float]:
    """From the lowest to the highest margin, with a bin's room on either side."""
    low, high = float(margins.min()), float(margins.max())
    widening = max(0.0, NARROWEST - (high - low)) / 2 + (high - low) / BINS
    return low - widening, high + widening


def _probability_ticks(low: float, high: float, x_of: Position) -> list[tuple[float, str]]:
    """Margins with the probabilities that they stand for, none too close to another; 0 and 1 stand where logits are cut off."""
    ticks: list[tuple[float, str]] = []
    for label in TICKS:
        margin = float(logit_margin(float(label)))
        is_free = all(abs(x_of(margin) - x_of(other)) >= TICK_DISTANCE for other, _ in ticks)
        if low <= margin <= high and abs(margin) <= LOGIT_RANGE and is_free:
            ticks.append((margin, label))
    return ticks


def _position(low: float, high: float, start: float, end: float) -> Position:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _steps(columns: np.ndarray, heights: np.ndarray) -> str:
    """A path through equally spaced columns with a corner only where the height changes."""
    changes = np.flatnonzero(np.diff(heights)) + 1
    corners = "".join(f"H{columns[at]}V{heights[at]:.1f}" for at in changes)
    return f"M{columns[0]} {heights[0]:.1f}{corners}H{columns[-1]}"


def _legend(names: list[str]) -> str:
    keys = (
        f'<svg class="key" viewBox="0 0 28 8"><path class="curve series-{number % SERIES}" d="M0 4H28"/></svg>'
        for number in range(len(names))
    )
    return '<ul class="legend">' + "".join(f"<li>{key}{html.escape(name)}</li>" for key, name in zip(keys, names)) + "</ul>"


def _svg(height: float, label: str, shapes: list[str]) -> str:
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(shapes)}</svg>'


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
