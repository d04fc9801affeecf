"""Search the settings of trainer.py that find most known points on your strips.

    # start as many processes as there are GPUs, on any machines that share the study's folder
    CUDA_VISIBLE_DEVICES=0 python -m scale.search --spec search.yaml
    CUDA_VISIBLE_DEVICES=1 python -m scale.search --spec search.yaml

    # the report so far, without working
    python -m scale.search --spec search.yaml --report

Three stages: trials on a sample of the strips, of which bad ones end early; the best few settings
and the default ones on all strips, with several seeds each; and one recommendation, or none. A
process may be killed at any moment: another one, or the next start, goes on with its training.
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import sys
from pathlib import Path

from common.command_parser import command_parser
from common.errors import run_command
from common.packages import require_packages


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--spec",
        type=Path,
        required=True,
        metavar="FILE",
        help="YAML file with the strips, the objective, and what is searched",
    )
    parser.add_argument(
        "--report", action="store_true", help="write the report on what is there, and train nothing"
    )
    return parser.parse_args(arguments)


def search(arguments: argparse.Namespace) -> int:
    """Take part in a search to its end, and print the recommendation.

    Returns the exit code 0. Raises `UserError` for a spec or a study that cannot be used, and where
    the trainings cannot run.
    """
    require_packages("optuna")
    from scale.search_worker import work
    from scale.spec import read_spec

    work(read_spec(arguments.spec), only_report=arguments.report)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: search(parse_args())))
