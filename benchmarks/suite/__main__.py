"""Draw a picture with one strip of each level of the quality suite.

    python -m benchmarks.suite --output FILE.png
    python -m benchmarks.suite --output FILE.png --group hard

It shows Target with rings around the defects, and its difference to Ref1.
"""

from pathlib import Path

from benchmarks.command_line import make_parser
from benchmarks.suite.levels import GROUPS
from benchmarks.suite.picture import draw_levels
from reporting.pictures import save_png


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="PNG file")
    parser.add_argument("--group", choices=GROUPS, default="suite", help="whose levels")
    parser.add_argument("--number", type=int, default=6, help="which strip of each level")
    parser.add_argument("--rows", type=int, default=300, help="how many of its rows")
    arguments = parser.parse_args()
    picture = draw_levels(arguments.number, arguments.rows, levels=GROUPS[arguments.group])
    save_png(arguments.output, picture)


if __name__ == "__main__":
    main()
