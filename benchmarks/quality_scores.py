"""The scores that the quality benchmark keeps for each strip and board, and their tables."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.detectors import Predictor
from benchmarks.suite.levels import GROUPS
from benchmarks.suite.strips import SuiteStrip
from benchmarks.tables import print_header, print_row
from evaluation.detections import Peaks, find_peaks
from evaluation.matching import MatchResult, TrueDefect, match, match_strip
from evaluation.metrics import FrocMetrics
from prepare_dataset import read_grey

RATES = (0.1, 1.0)  # false alarms per strip
# of the harder levels alone: clutter ranks between faint points and noise
MANY = 50.0
FAINT = "contrast up to 25 grey levels"  # a group of FrocMetrics.table
LEAST_CONTRAST = 15.0  # grey levels, of the defects in the columns "from 15"
COLUMNS = ("recall at 0.1", "recall at 1", "from 15, at 0.1", "from 15, at 1", "faint, at 1")
COLUMNS += ("distractors reported", "missing features reported")
COLUMNS += ("verdict flips", "point flips")
NOT_FOUND = -1000.0  # stands for the score of a missing detection; every real score is higher
Z = 1.96  # standard deviations of a normal distribution within which 95 % of it lie

ImageScores = dict[str, object]  # of one strip or board, from `score_strip` or `score_board`
Estimate = tuple[float, float, float]  # a share 0-1, and the ends of its interval of 95 %


def score_strip(predictor: Predictor, strip: SuiteStrip) -> ImageScores:
    """The scores of a detector on one shot, those of `score_heatmap`."""
    return score_heatmap(predictor(strip.image), strip)


def true_defects(strip: SuiteStrip) -> list[TrueDefect]:
    """What a detector should find on a shot, and points that both references lack, uncounted."""
    return [
        TrueDefect(
            point.center,
            contrast=point.contrast,
            place=point.place,
            counts=point.presence == "T",
            box=point.box,
        )
        for point in strip.points
        if point.presence in ("T", "R12")
    ]


def score_heatmap(heatmap: np.ndarray, strip: SuiteStrip) -> ImageScores:
    """The scores of a heatmap (H, W), 0-1, of one shot, in types that JSON can hold.

    `scores` has one entry for each detection, `truth` the number of the defect that it found or a
    negative number, and `truths` the contrast and place of each defect. `distractors` and `missing`
    have the score of the detection on each such point, or NOT_FOUND.
    """
    peaks = find_peaks(heatmap)
    truths = true_defects(strip)
    outcome = match_strip(peaks, truths)
    others = {
        name: [
            TrueDefect(point.center, box=point.box) for point in strip.points if is_member(point)
        ]
        for name, is_member in OTHERS.items()
    }
    return {
        "level": strip.level,
        "number": strip.number,
        "shot": strip.shot,
        "scores": outcome.scores.tolist(),
        "truth": outcome.truth.tolist(),
        "truths": [(truth.contrast, truth.place) for truth in outcome.truths],
    } | {name: best_scores(peaks, points) for name, points in others.items()}


OTHERS = {  # points that are no defects: their name in the scores to whether a point is one
    "distractors": lambda point: point.presence not in ("T", "R12"),
    "missing": lambda point: point.presence == "R12",
}


def best_scores(peaks: Peaks, truths: list[TrueDefect]) -> list[float]:
    """For each point the score of the detection on it, or NOT_FOUND."""
    found = match(peaks.points, truths).tolist()
    return [
        float(peaks.scores[found.index(number)]) if number in found else NOT_FOUND
        for number in range(len(truths))
    ]


def score_board(predictor: Predictor, template_path: Path) -> ImageScores:
    """The scores of a detector on a board of DeepPCB, with `scores`, `truth` and `truths`.

    The board's template serves as both references, and every annotated box is a defect.
    """
    name = template_path.name.removesuffix("_temp.jpg")
    board = read_grey(template_path.with_name(f"{name}_test.jpg"))
    template = read_grey(template_path)
    annotation = template_path.parent.with_name(f"{template_path.parent.name}_not") / f"{name}.txt"
    boxes = [
        tuple(map(int, line.split()[:4]))
        for line in annotation.read_text().splitlines()
        if line.strip()
    ]
    truths = [defect_in_box(*box) for box in boxes]
    strip = np.stack([board, template, template]).astype(np.float32)
    outcome = match_strip(find_peaks(predictor(strip)), truths)
    return {
        "scores": outcome.scores.tolist(),
        "truth": outcome.truth.tolist(),
        "truths": [(None, "interior")] * len(truths),
    }


def defect_in_box(left: int, top: int, right: int, bottom: int) -> TrueDefect:
    """The true defect of a box in pixels; `right` and `bottom` are the first ones beyond it."""
    return TrueDefect(
        ((top + bottom - 1) / 2, (left + right - 1) / 2), box=(top, left, bottom, right)
    )


def pool(images: list[ImageScores]) -> FrocMetrics:
    """The metrics of several strips or boards with one threshold for all."""
    metrics = FrocMetrics()
    for strip in images:
        truths = tuple(
            TrueDefect((0, 0), contrast=contrast, place=place)
            for contrast, place in strip["truths"]
        )
        metrics.update(
            MatchResult(np.array(strip["scores"]), np.array(strip["truth"], dtype=np.int64), truths)
        )
    return metrics


def recall_sum(images: list[ImageScores]) -> float:
    """The recalls at 0.1 and at 1 false alarms per strip, added: what settings are chosen by."""
    found = pool(images).compute()
    return found["point_recall_at_0.1"] + found["point_recall_at_1"]


def print_suite_tables(rows: dict[str, list[list[ImageScores]]], group: str = "suite") -> None:
    """Print the tables of a group of levels, one of GROUPS.

    `rows` has the scores of each seed, by the detector's name.
    """
    shots = first_shots(next(iter(rows.values()))[0])
    metrics = pool(shots)
    distractors = sum(len(strip["distractors"]) for strip in shots)
    counts = f"{metrics.strips} strips with {metrics.truths} defects and {distractors} distractors"
    print(f"{group}: {counts}; one threshold for all")
    print_header("detector", *COLUMNS)
    for name, seeds in rows.items():
        columns = [calculate_columns(images) for images in seeds]
        suffix = f" ({len(columns)} seeds)" if len(columns) > 1 else ""
        print_row(f"{name}{suffix}", *(format_estimates(list(column)) for column in zip(*columns)))
    levels = GROUPS[group]
    shared, separate = "the one threshold for all levels", "a threshold of its own for each level"
    for rate in RATES:
        for which, text in enumerate((shared, separate)):
            print(f"\nrecall at {rate:g} false alarms per strip, with {text}")
            print_levels(
                rows,
                levels,
                lambda images, rate=rate, which=which: recall_by_level(images, rate, levels)[which],
            )
    if group == "hard":
        print(f"\nrecall at {MANY:g} false alarms per strip, with {separate}")
        print_levels(rows, levels, lambda images: recall_at_many(images, levels))


def print_levels(
    rows: dict[str, list[list[ImageScores]]],
    levels: tuple[str, ...],
    calculate: Callable[[list[ImageScores]], list[Estimate]],
) -> None:
    """Print what `calculate` gives for each level, a row for each detector."""
    print_header("detector", *levels)
    for name, seeds in rows.items():
        cells = [calculate(images) for images in seeds]
        print_row(name, *(format_estimates(list(cell)) for cell in zip(*cells)))


def first_shots(images: list[ImageScores]) -> list[ImageScores]:
    """The first shot of every strip: the recalls count each part once."""
    return [strip for strip in images if strip["shot"] == 0]


def calculate_columns(images: list[ImageScores]) -> list[Estimate]:
    """The values of COLUMNS for one detector."""
    first = first_shots(images)
    metrics = pool(first)
    table = {row["group"]: row["recall"] for row in metrics.table()}
    limit = metrics.limit(RATES[0])
    reported = [
        share_above([score for strip in first for score in strip[name]], limit) for name in OTHERS
    ]
    stronger = [
        share_above(defect_scores(first, LEAST_CONTRAST), metrics.limit(rate)) for rate in RATES
    ]
    return [
        table["all"][0.1],
        table["all"][1.0],
        *stronger,
        table[FAINT][1.0],
        *reported,
        *count_flips(images, limit),
    ]


def count_flips(images: list[ImageScores], limit: float) -> list[Estimate]:
    """How often the shots of one strip disagree at a threshold of `limit`.

    The first share counts the strips whose shots differ in their verdict, the second one the
    defects that some shots find and others miss.
    """
    shots: dict[tuple[str, int], list[ImageScores]] = {}
    for strip in images:
        shots.setdefault((strip["level"], strip["number"]), []).append(strip)
    verdicts, points = [], []
    for strip_shots in shots.values():
        verdicts.append(
            len({any(score > limit for score in shot["scores"]) for shot in strip_shots}) > 1
        )
        found = [
            {number for number, score in zip(shot["truth"], shot["scores"]) if score > limit}
            for shot in strip_shots
        ]
        points += [
            0 < sum(number in each for each in found) < len(found)
            for number in range(len(strip_shots[0]["truths"]))
        ]
    return [
        share_above(np.array(verdicts, float).tolist(), 0.5),
        share_above(np.array(points, float).tolist(), 0.5),
    ]


def recall_by_level(
    images: list[ImageScores], rate: float, levels: tuple[str, ...]
) -> tuple[list[Estimate], list[Estimate]]:
    """Recall of each level: with one threshold for all levels, and with one for each level."""
    first = first_shots(images)
    limit, with_shared, with_separate = pool(first).limit(rate), [], []
    for level in levels:
        members = [strip for strip in first if strip["level"] == level]
        with_shared.append(share_above(defect_scores(members), limit))
        with_separate.append(pool(members).table()[0]["recall"][rate])
    return with_shared, with_separate


def recall_at_many(images: list[ImageScores], levels: tuple[str, ...]) -> list[Estimate]:
    """Recall of each level at MANY false alarms per strip, with a threshold of its own."""
    recalls = []
    for level in levels:
        members = [strip for strip in first_shots(images) if strip["level"] == level]
        recalls.append(share_above(defect_scores(members), pool(members).limit(MANY)))
    return recalls


def defect_scores(images: list[ImageScores], least_contrast: float = 0.0) -> list[float]:
    """For each true defect the score of the detection that found it, or NOT_FOUND.

    Leaves out defects with a contrast below `least_contrast` grey levels.
    """
    scores = []
    for strip in images:
        best = dict(zip(strip["truth"], strip["scores"]))
        scores += [
            best.get(number, NOT_FOUND)
            for number, (contrast, _) in enumerate(strip["truths"])
            if contrast >= least_contrast
        ]
    return scores


def share_above(values: list[float], limit: float) -> Estimate:
    """The share of values above a limit, with Wilson's interval of 95 %.

    NOT_FOUND is above none, not even where all detections count. Source: Wilson, "Probable
    inference", 1927.
    """
    count = len(values)
    share = sum(value > max(limit, NOT_FOUND) for value in values) / count
    middle = share + Z**2 / (2 * count)
    half = Z * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return share, (middle - half) / (1 + Z**2 / count), (middle + half) / (1 + Z**2 / count)


def format_estimates(values: list[Estimate]) -> str:
    """The mean of several runs' values, and the means of the ends of their intervals."""
    value, low, high = np.mean(values, axis=0)
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
