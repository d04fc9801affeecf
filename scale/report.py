"""One page on what an archive's scoring has found, or on what two models have found in one archive.

    python -m scale.report --judged /data/judged --output report.html

    # the new model against the one before
    python -m scale.report --judged /data/judged_new --against /data/judged --output report.html

Both folders are outputs of `python -m scale.score_archive`, paths or URLs.
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import sys
from pathlib import Path

from arguments import positive, whole_number
from common.command_parser import command_parser
from common.errors import run_command
from common.packages import require_packages
from evaluation.matching import MATCH_RADIUS
from scale.score_archive import location

MOST_PICTURES = 1000


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--judged", type=location, required=True, metavar="FOLDER|URL", help="what was scored"
    )
    parser.add_argument(
        "--against",
        type=location,
        metavar="FOLDER|URL",
        help="the same archive, scored with the model before",
    )
    parser.add_argument("--output", type=Path, required=True, help="the page, an HTML file")
    parser.add_argument(
        "--match_radius",
        type=positive,
        default=MATCH_RADIUS,
        help="pixels between two detections that count as one",
    )
    parser.add_argument(
        "--pictures",
        type=whole_number(0, MOST_PICTURES, "the page would not open"),
        default=100,
        help="pictures of the strongest new detections, and as many of lost ones; without "
        "--against, of the strongest",
    )
    return parser.parse_args(arguments)


def report(arguments: argparse.Namespace) -> int:
    """Write the page. Raises `UserError` for folders of no job, and where packages lack."""
    require_packages("pyarrow", "duckdb")
    from scale.report_page import write_page  # it has DuckDB

    for line in write_page(arguments):
        print(line)
    print(f"the page is {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: report(parse_args())))
