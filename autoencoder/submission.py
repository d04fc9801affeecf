"""`submission.csv`: what a competition or another program takes: a score for each picture."""

from pathlib import Path

from evaluation.results import Evaluation
from reporting.tables import write_table

SUBMISSION = "submission.csv"


def write_submission(output_dir: Path, result: Evaluation) -> None:
    """Write `id,score,label` of each picture; the label is 1 for NG and 0 for OK.

    The id is the picture's path in the scored folder. Raises `UserError` when the file cannot be
    written.
    """
    rows = (
        (
            scored.strip.relative.as_posix(),
            f"{scored.score:.9g}",
            int(scored.verdict == "NG"),
        )
        for scored in result.results
    )
    write_table(output_dir / SUBMISSION, ("id", "score", "label"), rows)
