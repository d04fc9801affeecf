"""Recall of the classical methods on registered references, under each mode of --align.

    python -m benchmarks.alignments --seed 7 --levels shift everything      # six minutes

The strips are the first shots of the quality suite's levels, with another seed than the suite's.
Recall counts at the threshold that has 0.1 false alarms per strip, and at that with 1, each level
with thresholds of its own, and in the last column all levels with one threshold. `left` is what
remains of the differences: the root mean square over all strips, in grey levels.
"""

from collections import defaultdict

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.command_line import make_parser
from benchmarks.quality_scores import RATES, ImageScores, pool, score_heatmap
from benchmarks.suite.levels import LEVELS, SUITE_SEED
from benchmarks.suite.strips import make_suite_strip
from benchmarks.tables import print_header, print_row
from data.image_files import to_batch
from gaussian import MAX_GREY
from ops.classical import DEFAULT_SIGMA, METHODS, classical_detector
from ops.registration import ALIGN_MODES, MEASURES, Alignment

REGISTERED = tuple(name for name, (detector, _) in METHODS.items() if detector.align != "none")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--levels", nargs="+", default=list(LEVELS), help="levels of the suite")
    parser.add_argument("--strips", type=int, default=20, help="number of strips of each level")
    parser.add_argument("--seed", type=int, required=True, help=f"not the suite's, {SUITE_SEED}")
    parser.add_argument("--modes", nargs="+", choices=ALIGN_MODES[1:], default=["full", "fine"])
    parser.add_argument("--methods", nargs="+", choices=REGISTERED, default=list(REGISTERED))
    arguments = parser.parse_args()
    if arguments.seed == SUITE_SEED:
        parser.error("--seed: found the suite's own, expected another one")
    scores: dict[tuple[str, str], dict[str, list[ImageScores]]] = defaultdict(dict)
    left: dict[tuple[str, str], list[float]] = defaultdict(list)
    for level in tqdm(arguments.levels, unit="level", disable=None, leave=False):
        for number in range(arguments.strips):
            strip = make_suite_strip(level, number, 0, arguments.seed)
            for mode in arguments.modes:
                aligned, remainder = align(strip.image, mode)
                left[mode, level].append(float(np.square(remainder).mean()))
                for method in arguments.methods:
                    heatmap = detect(aligned, method)
                    scores[method, mode].setdefault(level, []).append(score_heatmap(heatmap, strip))
    print_header("method", "align", *arguments.levels, "all levels")
    for (method, mode), by_level in scores.items():
        every = [image for images in by_level.values() for image in images]
        print_row(method, mode, *map(format_recalls, [*by_level.values(), every]))
    for mode in arguments.modes:
        powers = [np.mean(left[mode, level]) for level in arguments.levels]
        cells = [f"{np.sqrt(power):.2f}" for power in [*powers, np.mean(powers)]]
        print_row("left, grey levels", mode, *cells)


def align(image: np.ndarray, mode: str) -> tuple[torch.Tensor, np.ndarray]:
    """The aligned strip (1, 3, H, W), values 0-1, and what is left in grey levels, (2,)."""
    with torch.inference_mode():
        aligned, measures = Alignment(mode)(to_batch(image, torch.device("cpu")))
    return aligned, measures[0, :, MEASURES.index("remainder")].numpy() * MAX_GREY


def detect(aligned: torch.Tensor, method: str) -> np.ndarray:
    """The heatmap (H, W) of a method for an aligned strip (1, 3, H, W)."""
    with torch.inference_mode():
        return classical_detector(method, DEFAULT_SIGMA).heatmap(aligned)[0, 0].numpy()


def format_recalls(images: list[ImageScores]) -> str:
    """The recall of some strips at each of RATES."""
    found = pool(images).compute()
    return " / ".join(f"{found[f'point_recall_at_{rate:g}']:.3f}" for rate in RATES)


if __name__ == "__main__":
    main()
