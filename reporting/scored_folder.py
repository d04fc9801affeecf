"""The steps that the scoring of any folder has in common: of strips, and of pictures without
references.

A tool lists and verifies its files, which makes an `Intake`, and hands `score_into` what evaluates
them and what writes the folder's files.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from common.errors import UserError
from common.files import refused_by_system
from common.locations import location_of
from common.notes import warn
from data.folder import unit_of
from data.verify import Verification
from evaluation.operating_points import threshold_contradiction
from evaluation.results import Evaluation
from evaluation.thresholds import Threshold
from reporting.descriptions import describe_result
from reporting.html_report import write_report
from reporting.output_folder import results_in
from reporting.tables import RESULT_FILES, write_results

REPORT = "report.html"
TABLES = (*RESULT_FILES, REPORT)


@dataclass(frozen=True)
class Intake:
    """The verified files of a folder, and where their results go.

    `count` is the number of files, unusable ones included. `warnings` have been printed; the report
    shows them, too. `unused_truth` has a line for each mask that fits no file.
    """

    folder: Path
    output_dir: Path
    verification: Verification
    count: int
    warnings: list[str] = field(default_factory=list)
    unused_truth: list[str] = field(default_factory=list)


def require_output_elsewhere(
    output_dir: Path, inputs: Iterable[Path | None], unit: str = "strip"
) -> None:
    """Raise `UserError` where the output folder lies in one of the folders that are read."""
    for input_dir in filter(None, inputs):
        if input_dir.resolve() in (output_dir.resolve(), *output_dir.resolve().parents):
            raise UserError(
                f"{output_dir}: found an output folder among the {unit}s of {input_dir}, "
                "expected one elsewhere"
            )


def require_usable(
    folder: Path, count: int, verification: Verification, unit: str = "strip"
) -> None:
    """Raise `UserError` when none of the `count` files of a folder can be used."""
    if not verification.usable:
        raise UserError(_none_usable(folder, count, verification.problems, unit))


def make_output_folder(output_dir: Path) -> None:
    """Make the folder. Raises `UserError` where the system refuses."""
    with refused_by_system(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)


def score_into(
    intake: Intake,
    score: Callable[[], Evaluation],
    write: Callable[[Evaluation], list[str]],
    more_tables: Sequence[str] = (),
) -> int:
    """Score verified files, write the folder's files, and print the outcome.

    `score` evaluates them and writes the files of each. `write` writes those of the folder, as
    `write_scored` does, and `more_tables`, which are names of others; it returns drift warnings.

    Returns the command's exit code: 1 when some files could not be used, else 0. Raises `UserError`
    when none can, and when the folder cannot be written.
    """
    output_dir, verification = intake.output_dir, intake.verification
    with results_in(output_dir, verification.usable, (*TABLES, *more_tables)):
        result = score()
        result.problems[:0] = verification.problems
        if not result.results:
            unit = unit_of(verification.usable)
            raise UserError(_none_usable(intake.folder, intake.count, result.problems, unit))
        result.warnings += intake.unused_truth
        result.warnings += intake.warnings
        drift = write(result)
    others = [warning for warning in result.warnings if warning not in intake.warnings]
    _print_outcome(result, intake.count, [*others, *drift], output_dir)
    return 1 if result.problems else 0


def write_scored(
    output_dir: Path,
    name: str,
    folder: Path,
    result: Evaluation,
    threshold: Threshold,
    settings: dict[str, object],
    drift: list[str] | None = None,
) -> None:
    """Write the tables and the report of what the model `name` has scored in `folder`.

    `settings` are shown in the report, by name. Adds a warning to the result where the threshold
    does not hold on these files.
    """
    drift = drift or []
    contradiction = threshold_contradiction(result, threshold)
    result.warnings += [contradiction] if contradiction else []
    write_results(output_dir, result, threshold, drift)
    subject = {
        "model": name,
        "strips" if result.has_references else "pictures": location_of(folder.absolute()),
        "scored": datetime.now().astimezone().isoformat(" ", timespec="minutes"),
    }
    write_report(output_dir / REPORT, result, threshold, drift, subject, settings)


def _none_usable(folder: Path, count: int, problems: list[str], unit: str) -> str:
    """The error where no file of a folder can be used."""
    return f"{folder}: none of {count} {unit}s could be used; the first: {problems[0]}"


def _print_outcome(result: Evaluation, count: int, warnings: list[str], output_dir: Path) -> None:
    """Print metrics to stdout, warnings and errors to stderr, and then where the files are."""
    unit = result.unit
    for line in describe_result(result):
        print(line)
    for warning in warnings:
        warn(warning)
    for problem in result.problems:
        print(f"error: {problem}", file=sys.stderr)
    print(result.times.describe(len(result.results), unit))
    print(
        f"{len(result.results)} of {count} {unit}s scored: "
        f"verdicts, detections, heatmaps and panels are in {output_dir}; "
        f"next: open {output_dir / REPORT} in a browser"
    )
