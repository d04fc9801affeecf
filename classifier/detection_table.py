"""Detections of the strip detector, and labels that a person gave them, from CSV files."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError, prefix_errors
from common.files import require_regular
from data.folder import GOOD, StripFile, is_good
from data.listing import list_files
from data.truth_layout import MASK_FOLDERS, split_of
from evaluation.matching import MATCH_RADIUS

DEFECT = "defect"  # the kind of a detection that has found a true point
HIT, FALSE_ALARM = "hit", "false alarm"  # statuses of detections.csv
# texts that mean a label, in lower case
MEANINGS = {HIT: DEFECT, FALSE_ALARM: GOOD, "false_alarm": GOOD, "nuisance": GOOD}
FORMULA_MARK = "'"  # in front of a name that a spreadsheet would take for a formula
RANKS = ("margin", "score")  # columns of the score, the first one that is there counts


@dataclass(frozen=True)
class DetectedPlace:
    """A detection: its strip, its whole (y, x) in pixels, its margin, and its status.

    `status` is one of HIT and FALSE_ALARM, another status of detections.csv, or empty.
    """

    strip: StripFile
    y: int
    x: int
    score: float
    status: str


def read_detections(path: Path, strips: Sequence[StripFile], folder: Path) -> list[DetectedPlace]:
    """The detections of a `detections.csv` or `candidates.csv`, in its order.

    Raises `UserError`, with the line's number, for a file of other columns or invalid content, for
    detections of strips that are not among `strips`, which are those of `folder`, and for none.
    """
    by_name = {strip.relative.as_posix(): strip for strip in strips}
    found = []
    for number, row in _rows(path, ("file", "y", "x")):
        rank = next((name for name in RANKS if name in row), None)
        with prefix_errors(f"{path}: line {number}"):
            if rank is None:
                raise UserError("found no column margin or score, expected one of them")
            strip = _strip_of(row["file"], by_name)
            if strip is None:
                raise UserError(
                    f"found a detection of {row['file']}, expected strips of {folder}: "
                    "are these the strips that were scored?"
                )
            y, x, score = _number(row, "y"), _number(row, "x"), _number(row, rank)
            found.append(
                DetectedPlace(strip, round(y), round(x), score, row.get("status", "").lower())
            )
    if not found:
        raise UserError(
            f"{path}: found no detections, expected some: score with a higher "
            "--target_false_alarms, such as 10"
        )
    return found


def label_of_status(status: str) -> str | None:
    """The kind that a status of detections.csv means, None where it means none."""
    return MEANINGS[status] if status in (HIT, FALSE_ALARM) else None


def read_labels(path: Path, places: Sequence[DetectedPlace]) -> tuple[dict[int, str], int]:
    """The labels of a reviewed CSV (file, y, x, label) by the number of the detection.

    Each row means the nearest detection within MATCH_RADIUS pixels. Rows without a label are left
    out. Returns the number of rows without a detection, too. Raises `UserError` for invalid
    content, and where no row fits a detection.
    """
    by_file: dict[str, list[int]] = {}
    for number, place in enumerate(places):
        by_file.setdefault(place.strip.relative.as_posix(), []).append(number)
    names = {place.strip.relative.as_posix(): place.strip for place in places}
    labels, unmatched, example = {}, 0, ""
    for line, row in _rows(path, ("file", "y", "x", "label")):
        if not row["label"]:
            continue
        with prefix_errors(f"{path}: line {line}"):
            label, at = plain_label(row["label"]), (_number(row, "y"), _number(row, "x"))
        strip = _strip_of(row["file"], names)
        numbers = by_file[strip.relative.as_posix()] if strip else []
        distances = [math.dist(at, (places[number].y, places[number].x)) for number in numbers]
        if not numbers or min(distances) > MATCH_RADIUS:
            unmatched, example = unmatched + 1, example or f"{row['file']} y {at[0]:g} x {at[1]:g}"
            continue
        labels[numbers[int(np.argmin(distances))]] = label
    if not labels:
        found = f"only rows without a detection, such as {example}" if example else "no labels"
        raise UserError(f"{path}: found {found}, expected labels of the detections")
    return labels, unmatched


def sorted_previews(folder: Path) -> dict[str, str]:
    """The labels of previews that were sorted into folders of labels, by their name.

    Those that lie in no folder have none. Raises `UserError` for one preview under two labels, and
    where none is sorted.
    """
    labels: dict[str, str] = {}
    for path in sorted(list_files(folder)):
        inside = path.relative_to(folder)
        if len(inside.parts) < 2:
            continue
        with prefix_errors(path):
            label = plain_label(inside.parts[0])
        if labels.setdefault(path.stem, label) != label:
            raise UserError(f"{path}: found it under {labels[path.stem]}, too, expected one label")
    if not labels:
        raise UserError(
            f"{folder}: found no previews in folders, expected them sorted into folders of labels, "
            f"such as {GOOD} and {DEFECT}"
        )
    return labels


def plain_label(text: str) -> str:
    """The kind that a label means: that without a defect has many names.

    Raises `UserError`, without a path, for a text that cannot be the name of a folder of a kind.
    """
    text = text.strip()
    if text.casefold() in MEANINGS or is_good(text):
        return MEANINGS.get(text.casefold(), GOOD)
    is_reserved = split_of(text) or text.casefold() in MASK_FOLDERS
    if not text or is_reserved or text.startswith(".") or set(text) & set('/\\:*?"<>|\0'):
        raise UserError(f"found the label {text!r}, expected the plain name of a kind")
    return text


def _strip_of(name: str, strips: dict[str, StripFile]) -> StripFile | None:
    return strips.get(name) or strips.get(name.removeprefix(FORMULA_MARK))


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file by column, with their line numbers."""
    try:
        with prefix_errors(path):
            require_regular(path)
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file)
            names = [name.strip().casefold() for name in next(reader, [])]
            if missing := [name for name in columns if name not in names]:
                raise UserError(
                    f"{path}: found no column {missing[0]}, expected {', '.join(columns)}"
                )
            for cells in reader:
                row = dict.fromkeys(names, "") | dict(zip(names, map(str.strip, cells)))
                if any(row.values()):
                    yield reader.line_num, row
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: found no readable CSV file ({reason})") from None


def _number(row: dict[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"found {column} {row[column]!r}, expected a number")
    return value
