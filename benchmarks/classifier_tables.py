"""The tables of benchmarks/classifier.py that hold what is found against what is asked."""

import numpy as np

from benchmarks.classifier_rows import FLOORS, MOST_ECE, MOST_ERROR, TARGET_ERROR
from benchmarks.classifier_runs import Result
from benchmarks.tables import format_seeds, print_header, print_row

CURVE_COLUMNS = 8  # epochs that the table of the curve shows


def print_recommended(results: list[Result]) -> None:
    """Print of the recommended settings what is asked of them, each kind, and the curve."""
    print("\nrecommended settings: what is asked of them")
    print_header("figure", "found", "floor", "goal", "kept")
    for title, name, floor, goal in FLOORS:
        values = [one[name] for one in results]
        kept = "goal" if np.mean(values) >= goal else "floor" if np.mean(values) >= floor else "no"
        print_row(title, format_seeds(values), f"{floor:.2f}", f"{goal:.2f}", kept)
    errors = [one["ece"] for one in results]
    before = np.mean([one["ece_before"] for one in results])
    is_kept = "yes" if np.mean(errors) <= MOST_ECE else "no"
    title = f"calibration error after the temperature ({before:.3f} before)"
    print_row(title, format_seeds(errors), f"{MOST_ECE:.2f}", "", is_kept)
    limits = {"valid/": "", "600 of the 1,000 images of test/, on the others": "_of_rest"}
    for place, suffix in limits.items():
        errors = [one[f"error_of_sure{suffix}"] for one in results]
        sure = [error for error in errors if error is not None]
        share = np.mean([one[f"sure{suffix}"] for one in results])
        is_kept = "nothing is sure" if not sure else "yes" if np.mean(sure) <= MOST_ERROR else "no"
        title = f"error of the {share:.0%} that are sure at --target_error {TARGET_ERROR:g}, "
        print_row(f"{title}set on {place}", format_seeds(sure), f"{MOST_ERROR:.2f}", "", is_kept)
    kinds = list(results[0]["kinds"])
    print(
        "\nrecommended settings by kind, sum of the seeds; rows: the label, columns: what is said"
    )
    print_header("kind", *kinds, "recall", "IoU")
    confusion = sum(np.array(one["confusion"]) for one in results)
    for kind, line in zip(kinds, confusion.tolist()):
        each = [one["kinds"][kind] for one in results]
        print_row(
            kind, *line, *(format_seeds([one[name] for one in each]) for name in ("recall", "iou"))
        )
    print("\nrecommended settings on valid/, epoch by epoch, mean of the seeds")
    curves = [one["curve"] for one in results]
    shown = sorted({round(place) for place in np.linspace(0, len(curves[0]) - 1, CURVE_COLUMNS)})
    print_header("epoch", *(curves[0][place][0] for place in shown))
    for number, title in ((1, "balanced accuracy"), (2, "IoU")):
        values = [[curve[place][number] for curve in curves] for place in shown]
        print_row(title, *(f"{np.mean(value):.3f}" for value in values))


def print_asked(title: str, found: float, least: float) -> None:
    """Print a line of a figure that is at least asked for."""
    print_row(title, f"{found:.3f}", "yes" if found >= least else "no")
