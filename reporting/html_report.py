"""One HTML file about a scored folder, for people: it opens from disk, without a network, and holds all that it shows."""

import base64
import html
import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from string import Template
from urllib.parse import quote

import cv2
import numpy as np

from common.files import replace_file
from evaluation.metrics import FALSE_ALARM_RATES
from evaluation.results import Evaluation, Figures, StripResult
from evaluation.thresholds import Threshold
from evaluation.worst_cases import REACH, Exhibit
from reporting.charts import froc_chart, score_histograms
from reporting.pictures import BACKGROUND, DETECTED, GAP, RING_RADIUS, TRUTH, grey, heat
from reporting.tables import MISSING, NEEDS_TRUTHS

TEMPLATE = Path(__file__).with_name("report_template.html")
ENLARGEMENT = 4  # of the pictures of misses and false alarms
LOSSLESS = 101  # OpenCV's quality of a WebP file
NOT_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and bytes of a name that is no UTF-8
UNKNOWN = "\N{EN DASH}"
GROUPS_OF_STRIPS = {False: "good", True: "defective", None: "unknown"}
NEEDS_KNOWN = "needs good strips, or defective ones with masks"
REASONS = MISSING | {"recall": NEEDS_TRUTHS, "false": NEEDS_KNOWN}  # by a figure's first word


def write_report(path: Path, result: Evaluation, threshold: Threshold, drift: list[str], settings: dict[str, object]) -> None:
    """What came out of a folder at a `threshold`: verdicts, figures, curves, the worst mistakes and every strip.

    `drift` are sentences of warning, `settings` what the run was started with, by name. Panels that lie beside `path` are linked.
    No text need be escaped, or be valid. Raises `UserError` where the file system refuses.
    """
    parts = {
        "verdict": _verdict(result, threshold),
        "warnings": _box("Unlike the training strips", drift) + _box("Strips that could not be scored", result.problems),
        "figures": _figures(result),
        "recalls": _recalls(result),
        "comparison": _comparison(result),
        "froc": _froc(result),
        "histograms": _histograms(result, threshold),
        "misses": _exhibits(result.gallery.misses, TRUTH, path.parent) or _nothing(result.board.points.truths, NEEDS_TRUTHS),
        "false_alarms": _exhibits(result.gallery.false_alarms, DETECTED, path.parent)
        or _nothing(result.board.points.strips, NEEDS_KNOWN),
        "strips": "".join(_strip(scored, path.parent) for scored in result.results),  # white space between rows makes sorting slow
        "settings": "".join(f"<tr><th>{as_html(name)}</th><td>{as_html(value)}</td></tr>" for name, value in settings.items()),
    }
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(parts)
    with replace_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def as_html(text: object) -> str:
    """Any text, escaped; what is no text becomes replacement characters."""
    return html.escape(NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", str(text)))


def _verdict(result: Evaluation, threshold: Threshold) -> str:
    rejected = sum(scored.verdict == "NG" for scored in result.results)
    count = len(result.results)
    counts = f"<strong>{count} strip{'' if count == 1 else 's'}: {rejected} NG, {count - rejected} OK</strong>"
    return f"{counts}, at {as_html(threshold.describe())}."


def _box(title: str, lines: list[str]) -> str:
    items = "".join(f"<li>{as_html(line)}</li>" for line in lines)
    return f'<section class="box"><h2>{title} ({len(lines)})</h2><ul>{items}</ul></section>' if lines else ""


def _figures(result: Evaluation) -> str:
    """A tile for each figure that is one number."""
    at_threshold = {f"{name} at the threshold": value for name, value in result.at_threshold().items()}
    others = {name: value for name, value in result.figures.items() if not name.startswith("point")}
    tiles = (
        f"<div><dt>{_label(name)}</dt><dd>{_figure(name, value)}</dd></div>" for name, value in (at_threshold | others).items()
    )
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _recalls(result: Evaluation) -> str:
    """Recall at the rates of false alarms, of all true points and of each group of them."""
    groups = result.point_recalls
    rows = [[as_html(group["group"]), group["truths"], *map(_with_interval, group["recall"].values())] for group in groups]
    headers = ["true points", "number", *(f"at {rate:g} false alarms per strip" for rate in FALSE_ALARM_RATES)]
    return _table(headers, rows) if rows else _nothing(0, NEEDS_TRUTHS)


def _comparison(result: Evaluation) -> str:
    """The detector beside its rivals; nothing without rivals."""
    if not result.rivals:
        return ""
    headers = ["detector", *(f"recall at&nbsp;{rate:g}" for rate in FALSE_ALARM_RATES), "pixel average precision", "image AUROC"]
    rows = [[as_html(name), *_comparable(figures)] for name, figures in result.figures_by_detector.items()]
    note = '<p class="note">Recall at so many false alarms per strip.</p>'
    return "<h2>Beside simpler detectors</h2>" + _table(headers, rows) + note


def _comparable(figures: Figures) -> list[str]:
    names = [*(f"point_recall_at_{rate:g}" for rate in FALSE_ALARM_RATES), "pixel_average_precision", "image_auroc"]
    return [_figure(name, figures[name]) for name in names]


def _froc(result: Evaluation) -> str:
    if not result.board.points.truths:
        return _nothing(0, NEEDS_TRUTHS)
    return froc_chart({_printable(name): board.points.curve() for name, board in result.boards.items()}, FALSE_ALARM_RATES)


def _histograms(result: Evaluation, threshold: Threshold) -> str:
    scores = {
        name: [scored.score for scored in result.results if scored.strip.is_defective is kind]
        for kind, name in GROUPS_OF_STRIPS.items()
    }
    scores = {name: values for name, values in scores.items() if values}
    return score_histograms(scores, threshold.value) if scores else "<p>No strip was scored.</p>"


def _exhibits(exhibits: list[Exhibit], color: tuple[int, int, int], folder: Path) -> str:
    figures = "".join(_exhibit(exhibit, color, folder) for exhibit in exhibits)
    return f'<div class="exhibits">{figures}</div>' if figures else ""


def _nothing(known: int, reason: str) -> str:
    return f"<p>{'None.' if known else f'Not defined: {reason}.'}</p>"


def _exhibit(exhibit: Exhibit, color: tuple[int, int, int], folder: Path) -> str:
    picture = draw_exhibit(exhibit, color)
    data = base64.b64encode(cv2.imencode(".webp", picture, (cv2.IMWRITE_WEBP_QUALITY, LOSSLESS))[1].tobytes()).decode()
    size = f'width="{picture.shape[1]}" height="{picture.shape[0]}"'
    image = f'<img {size} alt="Target, Ref1, Ref2 and heatmap" src="data:image/webp;base64,{data}">'
    place = "at y {}, x {}".format(*exhibit.place)
    return (
        f"<figure>{image}<figcaption>{_file(Path(exhibit.file), folder)} {place}: {as_html(exhibit.caption)}</figcaption></figure>"
    )


def draw_exhibit(exhibit: Exhibit, color: tuple[int, int, int]) -> np.ndarray:
    """Target, Ref1, Ref2 and heatmap side by side, ENLARGEMENT times as large, the place ringed: (H, W, 3) uint8, BGR.

    The place is in the middle of each; where the strip ends before the picture does, the background goes on.
    """
    *channels, heatmap = exhibit.crops
    panels = [_centered(panel, exhibit.offset) for panel in (*map(grey, channels), heat(heatmap))]
    middle = panels[0].shape[0] // 2
    for panel in panels:
        cv2.circle(panel, (middle, middle), ENLARGEMENT * RING_RADIUS, color, 1, cv2.LINE_AA)
    gap = np.full((panels[0].shape[0], GAP, 3), BACKGROUND, np.uint8)
    return np.concatenate([panels[0], *(part for panel in panels[1:] for part in (gap, panel))], axis=1)


def _centered(crop: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """A crop (h, w, 3), enlarged, in a square of which the point at `offset` (y, x) is the middle."""
    side = 2 * REACH + 1
    square = np.full((side, side, 3), BACKGROUND, np.uint8)
    top, left = (REACH - at for at in offset)
    square[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return np.repeat(np.repeat(square, ENLARGEMENT, axis=0), ENLARGEMENT, axis=1)


def _strip(scored: StripResult, folder: Path) -> str:
    """A strip's row in the table. Numbers carry all digits that they are sorted by."""
    kind = UNKNOWN if scored.strip.kind is None else as_html(scored.strip.kind)
    cells = [
        f"<td>{_file(scored.strip.relative, folder)}</td><td>{kind}</td>",
        f'<td class="{scored.verdict}">{scored.verdict}</td>',
        f'<td data-value="{scored.score:.9g}">{scored.score:.4f}</td><td>{len(scored.detections)}</td>',
    ]
    for strongest in islice(scored.detections, 1):
        contrasts = f"<td>{strongest.contrast_ref1:+.0f}</td><td>{strongest.contrast_ref2:+.0f}</td>"
        cells.append(f"<td>{strongest.y}</td><td>{strongest.x}</td>{contrasts}")
    return f"<tr>{''.join(cells)}{'' if scored.detections else f'<td>{UNKNOWN}</td>' * 4}</tr>"


def _file(relative: Path, folder: Path) -> str:
    """A strip's name; a link to its panels where they lie in the report's `folder`."""
    panels = relative.with_name(f"{relative.stem}_panels.png")
    name = f"<bdi>{as_html(relative.as_posix())}</bdi>"
    if not os.path.isfile(folder / panels):  # unlike Path.is_file, it takes a name that is too long
        return name
    return f'<a href="{quote(os.fsencode(panels.as_posix()))}">{name}</a>'


def _label(name: str) -> str:
    return re.sub("auroc|aupro", lambda found: found[0].upper(), name.replace("_", " "))


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return f'<span class="missing">not defined <small>{REASONS[re.match("[a-z]+", name)[0]]}</small></span>'
    return f"{value:.4f}"


def _with_interval(recall: tuple[float, float, float]) -> str:
    return "{:.3f} <small>{:.3f} to {:.3f}</small>".format(*recall)


def _printable(text: str) -> str:
    return NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)


def _table(headers: list[str], rows: Iterable[Iterable[object]]) -> str:
    """Headers and cells are HTML; the first cell of a row is its header."""
    head = "".join(f"<th>{header}</th>" for header in headers)
    lines = (f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for first, *cells in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
