"""What the quality benchmark counts and prints: detections of a strip or a board as plain values,
and tables made of these.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.suite import LEVELS, SuiteStrip
from evaluation.detections import Peaks, find_peaks
from evaluation.matching import MatchResult, TrueDefect, match, match_strip
from evaluation.metrics import FrocMetrics
from prepare_dataset import read_grey

RATES, FAINT = (0.1, 1.0), "contrast up to 25 grey levels"
LEAST_CONTRAST = 15.0  # grey levels: of the columns "from 15"
COLUMNS = ("recall at 0.1", "recall at 1", "from 15, at 0.1", "from 15, at 1", "faint, at 1")
COLUMNS += ("distractors reported", "missing features reported")
COLUMNS += ("verdict flips", "point flips")
NOT_FOUND = -1000.0  # below every score
Z = 1.96  # of an interval at 95 %

Predictor = Callable[[np.ndarray], np.ndarray]
Scored = dict[str, object]  # one strip or board, as `score_strip` and `score_board` give it
Figure = tuple[float, float, float]  # with the ends of its interval


def score_strip(predictor: Predictor, strip: SuiteStrip) -> Scored:
    """All that the figures need of one shot, as plain values."""
    peaks = find_peaks(predictor(strip.image))
    truths = [
        TrueDefect(
            point.center, contrast=point.contrast, place=point.place, counts=point.presence == "T"
        )
        for point in strip.points
        if point.presence in ("T", "R12")
    ]
    outcome = match_strip(peaks, truths)
    others = {
        name: [TrueDefect(point.center) for point in strip.points if is_of(point)]
        for name, is_of in OTHERS.items()
    }
    return {
        "level": strip.level,
        "number": strip.number,
        "shot": strip.shot,
        "scores": outcome.scores.tolist(),
        "truth": outcome.truth.tolist(),
        "truths": [(truth.contrast, truth.place) for truth in outcome.truths],
    } | {name: best_scores(peaks, these) for name, these in others.items()}


OTHERS = {
    "distractors": lambda point: point.presence not in ("T", "R12"),
    "missing": lambda point: point.presence == "R12",
}


def best_scores(peaks: Peaks, truths: list[TrueDefect]) -> list[float]:
    """For each point the score of the detection that is on it, NOT_FOUND where there is none."""
    found = match(peaks.points, truths).tolist()
    return [
        float(peaks.scores[found.index(number)]) if number in found else NOT_FOUND
        for number in range(len(truths))
    ]


def score_board(predictor: Predictor, template_path: Path) -> Scored:
    """A board against its template as both references; every annotated box is a defect."""
    name = template_path.name.removesuffix("_temp.jpg")
    board, template = (
        read_grey(template_path.with_name(f"{name}_test.jpg")),
        read_grey(template_path),
    )
    annotation = template_path.parent.with_name(f"{template_path.parent.name}_not") / f"{name}.txt"
    boxes = [
        tuple(map(int, line.split()[:4]))
        for line in annotation.read_text().splitlines()
        if line.strip()
    ]
    truths = [truth_of_box(*box) for box in boxes]
    outcome = match_strip(
        find_peaks(predictor(np.stack([board, template, template]).astype(np.float32))), truths
    )
    return {
        "scores": outcome.scores.tolist(),
        "truth": outcome.truth.tolist(),
        "truths": [(None, "interior")] * len(truths),
    }


def truth_of_box(left: int, top: int, right: int, bottom: int) -> TrueDefect:
    return TrueDefect(
        ((top + bottom - 1) / 2, (left + right - 1) / 2), box=(top, left, bottom, right)
    )


def pool(scored: list[Scored]) -> FrocMetrics:
    figures = FrocMetrics()
    for strip in scored:
        truths = tuple(
            TrueDefect((0, 0), contrast=contrast, place=place)
            for contrast, place in strip["truths"]
        )
        figures.update(
            MatchResult(np.array(strip["scores"]), np.array(strip["truth"], dtype=np.int64), truths)
        )
    return figures


def print_suite_tables(rows: dict[str, list[list[Scored]]]) -> None:
    first = next(iter(rows.values()))[0]
    figures = pool([strip for strip in first if strip["shot"] == 0])
    distractors = sum(len(strip["distractors"]) for strip in first if strip["shot"] == 0)
    print(
        f"suite: {figures.strips} strips with {figures.truths} defects and {distractors} distractors; one threshold for all"
    )
    print(f"| detector | {' | '.join(COLUMNS)} |\n|{' --- |' * (1 + len(COLUMNS))}")
    for name, scorings in rows.items():
        columns = [suite_columns(scored) for scored in scorings]
        seeds = f" ({len(columns)} seeds)" if len(columns) > 1 else ""
        print(
            f"| {name}{seeds} | {' | '.join(with_interval(list(column)) for column in zip(*columns))} |"
        )
    for rate in RATES:
        for which, text in enumerate(
            ("the one threshold for all levels", "a threshold of its own for each level")
        ):
            print(f"\nrecall at {rate:g} false alarms per strip, with {text}")
            print(f"| detector | {' | '.join(LEVELS)} |\n|{' --- |' * (1 + len(LEVELS))}")
            for name, scorings in rows.items():
                cells = [level_figures(scored, rate)[which] for scored in scorings]
                print(
                    f"| {name} | {' | '.join(with_interval(list(cell)) for cell in zip(*cells))} |"
                )


def suite_columns(scored: list[Scored]) -> list[Figure]:
    """COLUMNS of one detector, each with its interval."""
    first = [strip for strip in scored if strip["shot"] == 0]
    figures = pool(first)
    table = {row["group"]: row["recall"] for row in figures.table()}
    limit = figures.limit(RATES[0])
    reported = [
        share_above([score for strip in first for score in strip[name]], limit) for name in OTHERS
    ]
    stronger = [
        share_above(scores_of_truths(first, LEAST_CONTRAST), figures.limit(rate)) for rate in RATES
    ]
    return [
        table["all"][0.1],
        table["all"][1.0],
        *stronger,
        table[FAINT][1.0],
        *reported,
        *flips(scored, limit),
    ]


def flips(scored: list[Scored], limit: float) -> list[Figure]:
    """The share of strips whose shots do not all have one verdict, and of defects that some shots
    find and others do not.
    """
    shots: dict[tuple[str, int], list[Scored]] = {}
    for strip in scored:
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


def level_figures(scored: list[Scored], rate: float) -> tuple[list[Figure], list[Figure]]:
    """Recall of each level with the threshold of all levels together, and with its own."""
    first = [strip for strip in scored if strip["shot"] == 0]
    limit, shared, own = pool(first).limit(rate), [], []
    for level in LEVELS:
        of_level = [strip for strip in first if strip["level"] == level]
        shared.append(share_above(scores_of_truths(of_level), limit))
        own.append(pool(of_level).table()[0]["recall"][rate])
    return shared, own


def scores_of_truths(scored: list[Scored], least_contrast: float = 0.0) -> list[float]:
    """For each true defect of at least that contrast the score of the detection that found it,
    NOT_FOUND where none did.
    """
    scores = []
    for strip in scored:
        best = dict(zip(strip["truth"], strip["scores"]))
        scores += [
            best.get(number, NOT_FOUND)
            for number, (contrast, _) in enumerate(strip["truths"])
            if contrast >= least_contrast
        ]
    return scores


def share_above(values: list[float], limit: float) -> Figure:
    """The share of values above a limit, with Wilson's interval at 95 % ("Probable inference",
    1927).
    """
    count = len(values)
    share = sum(value > limit for value in values) / count
    middle, reach = (
        share + Z**2 / (2 * count),
        Z * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)),
    )
    return share, (middle - reach) / (1 + Z**2 / count), (middle + reach) / (1 + Z**2 / count)


def with_interval(values: list[Figure]) -> str:
    """The mean of several runs' figures, and of the ends of their intervals."""
    value, low, high = np.mean(values, axis=0)
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
