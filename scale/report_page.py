"""The page of scale/report.py: tables from DuckDB, and pictures of the strips in the archive."""

import argparse
import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.errors import UserError
from common.files import atomic_write
from common.storage import fetch, join
from data.image_files import encode_image, load_image
from reporting.templating import render
from scale.judged import Comparison, Judged, Place, open_judged
from scale.output_folder import MODEL

REACH, ZOOM, GAP = 24, 3, 4  # pixels around a place; screen pixels of each; between the channels
MORE_STRIPS = 0.01  # share of all strips: one more false alarm per 100 strips
MOST_ROWS = 400  # folders in a table
NOTE = "Target, Ref1 and Ref2 side by side, the strongest first"
Table = dict[str, Any]


def write_page(arguments: argparse.Namespace) -> list[str]:
    """Write the page and return the lines at its top. Raises `UserError` as `Judged`."""
    jobs = open_judged([arguments.judged, arguments.against])
    new, old = jobs[0], jobs[1] if len(jobs) > 1 else None
    comparison = Comparison(new, old, arguments.match_radius) if old else None
    lines, tables = describe(new, comparison), [folder_table(new), drift_table(new)]
    if comparison:
        tables.insert(0, flip_table(comparison))
    groups = (
        {
            "New: the model before has no detection there": comparison.places(
                new, old, arguments.pictures
            ),
            "Lost: only the model before has a detection there": comparison.places(
                old, new, arguments.pictures
            ),
        }
        if comparison
        else {"The strongest detection of a strip": new.strongest(arguments.pictures)}
    )
    page = render(
        "sections.html",
        title="Two models on an archive" if comparison else "An archive",
        lines=lines,
        tables=[table for table in tables if table["rows"]],
        chart=None,
        chart_title="",
        figures=[
            {"title": title, "count": len(places), "note": NOTE, "figures": figures_of(new, places)}
            for title, places in groups.items()
        ],
        settings={"judged": str(new.output), **({"against": str(old.output)} if old else {})}
        | {name: value for name, value in new.facts.items() if value is not None},
    )
    with atomic_write(arguments.output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return lines


def describe(new: Judged, comparison: Comparison | None) -> list[str]:
    """Sentences on all strips together."""
    ((strips, ng, detections, errors),) = new.ask(
        "select count(*), count_if(verdict = 'NG'), coalesce(sum(detections), 0), "
        "(select count(*) from errors{s}) from strips{s}"
    )
    lines = [
        f"Model {new.model}: {strips} strips, {ng} of them NG, {detections} detections; "
        f"{errors} strips could not be used."
    ]
    looser = new.looser(MORE_STRIPS)
    if looser:
        lines.append(
            f"One more NG strip per 100 strips needs a threshold of {looser[0]:.6g}: "
            f"{looser[1]:.2%} of the strips are NG then."
        )
    if not comparison:
        return lines
    counts = comparison.counts()
    lines.append(
        f"Against model {comparison.old.model}, on {comparison.strips} strips that both have: "
        f"{counts['common']} detections of both, {counts['new']} new, {counts['lost']} lost."
    )
    if looser:
        lost, back = comparison.bought(looser[0])
        lines.append(
            f"Of {lost} strips that were NG before and are OK now, {back} would be NG with it."
        )
    return lines


def folder_table(judged: Judged) -> Table:
    """Verdicts of each folder."""
    columns = ("folder", "strips", "NG", "NG in %", "detections per strip", "not used")
    return _table("By folder", columns, judged.by_folder())


def flip_table(comparison: Comparison) -> Table:
    """Verdicts of both models in each folder."""
    columns = ("folder", "strips", "OK both", "NG both", "OK before, NG now", "NG before, OK now")
    return _table("Verdicts of both models", columns, comparison.flips())


def drift_table(judged: Judged) -> Table:
    """What changes between folders, in the statistics of the channels."""
    columns = ("statistic", "strips", "median", "lowest in", "median there")
    columns += ("highest in", "median there")
    rows = [
        tuple(f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row)
        for row in judged.drift()
    ]
    columns += ("apart, in spreads within a folder",)
    return _table("Drift between folders, the largest first", columns, rows)


def _table(title: str, columns: tuple[str, ...], rows: list[tuple]) -> Table:
    shown = [["" if cell is None else cell for cell in row] for row in rows[:MOST_ROWS]]
    more = f" (the first {MOST_ROWS} of {len(rows)})" if len(rows) > MOST_ROWS else ""
    return {"title": f"{title}{more}", "columns": columns, "rows": shown}


def figures_of(judged: Judged, places: Iterable[Place]) -> list[dict[str, str]]:
    """A picture of each place whose strip can still be read."""
    model = judged.output.read_notes(MODEL) or {}
    figures = []
    for place in places:
        try:
            path = fetch(join(judged.facts["input"], place.path))
            image = load_image(path, model["input_max"], order=tuple(model["order"]))
        except (UserError, KeyError):
            continue  # the archive may have moved; the tables are whole without it
        png = encode_image(Path("crop.png"), crop(image, place))
        caption = f"{place.path} at y {place.y}, x {place.x}: margin {place.margin:.2f}"
        figures.append({"caption": caption, "png": base64.b64encode(png).decode()})
    return figures


def crop(image: np.ndarray, place: Place) -> np.ndarray:
    """The surroundings of a place in (3, H, W) grey levels, side by side: (h, w) uint8."""
    padded = np.pad(image, ((0, 0), (REACH, REACH), (REACH, REACH)))
    size = 2 * REACH + 1
    window = padded[:, place.y : place.y + size, place.x : place.x + size]
    spaced = np.pad(window, ((0, 0), (0, 0), (0, GAP)), constant_values=255)
    row = np.concatenate(list(spaced), axis=1).clip(0, 255).astype(np.uint8)
    return cv2.resize(row, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST)
