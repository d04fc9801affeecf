"""True points of strips as coordinates, read from `points.csv` files."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path, PurePath

from common.errors import UserError, prefix_errors
from common.files import require_regular
from common.storage import fetch
from data.truth_layout import StripNames

COLUMNS = ("file", "y", "x")
# Columns that the suite's own files have: 1 for each channel that a painted point is in.
CHANNEL_COLUMNS = ("target", "ref1", "ref2")
LARGEST_COORDINATE = 1e6  # pixels
Point = tuple[float, float]


def write_coordinates(path: Path, rows: Iterable[tuple[str, float, float]]) -> None:
    """Write a `points.csv` of COLUMNS alone: file, y and x of each true point."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def read_points(path: Path) -> list[tuple[str, Point]]:
    """Return the file and the point (y, x), in pixels, of each row of a `points.csv`.

    A point that is not in Target, or that a reference has as well, is no defect and left out: the
    columns target, ref1 and ref2 say so where the file has them. Raises `UserError` with the line's
    number if the content is invalid.
    """
    try:
        with prefix_errors(path):
            local = fetch(path)
            require_regular(local)
        with local.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file)
            names = [name.strip().casefold() for name in next(reader, [])]
            if not set(COLUMNS) <= set(names):
                raise UserError(f"{path}: found the columns {names}, expected file, y and x")
            found = []
            for cells in reader:
                row = dict(zip(names, map(str.strip, cells)))
                if any(row.values()) and _is_defect(row):
                    found.append(_parse(row, f"{path}: line {reader.line_num}"))
            return found
    except (OSError, UnicodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: found no readable CSV file ({reason}), expected columns file, y and x"
        ) from None


def match_points(
    strips: StripNames, tables: Iterable[tuple[Path, PurePath]], split: Path
) -> tuple[dict[str, tuple[Point, ...]], list[str]]:
    """Return the points of each strip by its key, and a line about each file that fits none.

    `tables` are `points.csv` files, each with its path in the folder of masks or strips. A row's
    file is a path from there, from its split, or a name alone, with suffix or without; or an
    absolute path in `split`, the folder of the strips. Raises `UserError` for a file that cannot be
    read.
    """
    points: dict[str, list[Point]] = {}
    unused: dict[str, None] = {}
    for path, relative in tables:
        for file, point in read_points(path):
            name = PurePath(file.replace("\\", "/"))
            if name.is_relative_to(split):
                name = name.relative_to(split)
            candidates = [relative.parent / name, name]
            candidates += [candidate.with_suffix("") for candidate in candidates]
            key = next((key for candidate in candidates if (key := strips.find(candidate))), None)
            if key:
                points.setdefault(key, []).append(point)
            else:
                unused[f"{path}: found points of {file}, expected the name of a strip"] = None
    return {key: tuple(found) for key, found in points.items()}, list(unused)


def require_inside(points: Iterable[Point], image_size: tuple[int, int]) -> None:
    """Raise `UserError`, without the path, for a point outside of an image (height, width)."""
    for y, x in points:
        if not (-0.5 <= y < image_size[0] - 0.5 and -0.5 <= x < image_size[1] - 0.5):
            raise UserError(
                f"found a true point at y {y:g}, x {x:g}, "
                f"expected one inside {tuple(image_size)} (height, width)"
            )


def _is_defect(row: dict[str, str]) -> bool:
    present = [row.get(name) for name in CHANNEL_COLUMNS]
    return None in present or present == ["1", "0", "0"]


def _parse(row: dict[str, str], place: str) -> tuple[str, Point]:
    try:
        y, x = float(row["y"]), float(row["x"])
    except (KeyError, ValueError):
        y = x = math.nan
    if not (row.get("file") and 0 <= y <= LARGEST_COORDINATE and 0 <= x <= LARGEST_COORDINATE):
        raise UserError(
            f"{place}: found {', '.join(row.values())!r}, "
            "expected a file, and y and x in pixels from 0 on"
        )
    return row["file"], (y, x)
