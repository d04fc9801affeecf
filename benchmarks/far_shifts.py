"""How far references may lie from Target, under each mode of --align.

    python -m benchmarks.far_shifts        # ten minutes

The good strips are those of benchmarks/shifts.py, and as many with straight lines alone, where a
wrong period is the danger. Each reference is shifted by the same length in a random direction. The
tables show, for each length, the share of references whose measured shift is right within half a
pixel, what remains of the differences, and the false alarms of the likelihood ratio. Its threshold
is the highest ratio on strips with the demo patterns where nothing is shifted. Lines determine only
the shift across them, so of theirs no share is given.
"""

from collections import defaultdict

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.alignments import detect
from benchmarks.command_line import make_parser
from benchmarks.shifts import constant, make_shifted_and_shifts
from benchmarks.tables import print_header, print_row
from data.demo_strips import draw_lines
from data.image_files import to_batch
from evaluation.detections import find_peaks
from gaussian import MAX_GREY
from ops.registration import ALIGN_MODES, MEASURES, Alignment

LENGTHS = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 16.0, 20.0)  # of the shifts, pixels
KINDS = {"demo patterns": None, "lines": (draw_lines,)}
FIRST_STRIP = 1000  # strips with smaller numbers were looked at when settings were chosen
RIGHT = 0.5  # pixels in y and in x by which a measured shift may be off


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--strips", type=int, default=8, help="for each kind and length")
    parser.add_argument("--modes", nargs="+", choices=ALIGN_MODES[1:], default=ALIGN_MODES[1:])
    arguments = parser.parse_args()
    right, left, ratios = defaultdict(list), defaultdict(list), defaultdict(list)
    for kind, families in KINDS.items():
        for length in tqdm(LENGTHS, desc=kind, unit="length", disable=None, leave=False):
            for number in range(FIRST_STRIP, FIRST_STRIP + arguments.strips):
                image, shifts = make_shifted_and_shifts(number, constant, length, families)
                for mode in arguments.modes:
                    aligned, measures = align(image, mode)
                    key = kind, mode, length
                    off = np.abs(measures[:, :2] - shifts.mean(axis=1)).max(axis=1)
                    right[key].extend(off < RIGHT)
                    left[key].extend(measures[:, MEASURES.index("remainder")] * MAX_GREY)
                    ratios[key].append(find_peaks(detect(aligned, "likelihood")).scores)
    for kind in KINDS:
        print(f"{kind}, shift in pixels")
        print_header("", "align", *(f"{length:g}" for length in LENGTHS))
        for mode in arguments.modes:
            keys = [(kind, mode, length) for length in LENGTHS]
            limit = max(
                scores.max(initial=0.0) for scores in ratios["demo patterns", mode, LENGTHS[0]]
            )
            alarms = [np.mean([(scores > limit).sum() for scores in ratios[key]]) for key in keys]
            if KINDS[kind] is None:
                print_row("right", mode, *(f"{np.mean(right[key]):.2f}" for key in keys))
            print_row("left, grey levels", mode, *(f"{np.median(left[key]):.1f}" for key in keys))
            print_row("false alarms per strip", mode, *(f"{rate:.3g}" for rate in alarms))


def align(image: np.ndarray, mode: str) -> tuple[torch.Tensor, np.ndarray]:
    """The aligned strip (1, 3, H, W), values 0-1, and its measures (2, MEASURES)."""
    with torch.inference_mode():
        aligned, measures = Alignment(mode)(to_batch(image, torch.device("cpu")))
    return aligned, measures[0].numpy()


if __name__ == "__main__":
    main()
