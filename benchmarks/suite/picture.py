"""A picture with one strip of each level of the suite."""

import cv2
import numpy as np

from benchmarks.suite.levels import LEVELS, SUITE_SEED
from benchmarks.suite.strips import make_suite_strip
from data.demo_strips import STRIP_SIZE
from gaussian import MAX_GREY, REF1, TARGET


def draw_levels(
    number: int, rows: int, seed: int = SUITE_SEED, levels: tuple[str, ...] = LEVELS
) -> np.ndarray:
    """A picture (h, w, 3) uint8 of the first rows of strip `number` of each level.

    It shows Target with rings around the defects, and |T-R1| multiplied by four.
    """
    panels = []
    for level in levels:
        strip = make_suite_strip(level, number, 0, seed, STRIP_SIZE)
        target = strip.image[TARGET, :rows]
        difference = np.abs(strip.image[TARGET] - strip.image[REF1])[:rows]
        for name, plane in ((level, target), ("|T-R1| x4", 4 * difference)):
            panel = cv2.cvtColor(np.clip(plane, 0, MAX_GREY).astype(np.uint8), cv2.COLOR_GRAY2BGR)
            panel = cv2.resize(panel, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
            for point in strip.points if plane is target else ():
                if point.presence == "T":
                    y, x = (round(2 * value + 0.5) for value in point.center)
                    cv2.circle(panel, (x, y), 14, (80, 220, 80))
                    cv2.putText(
                        panel,
                        f"{point.amplitude:+.0f}",
                        (min(x + 12, panel.shape[1] - 26), max(y - 9, 10)),
                        cv2.FONT_HERSHEY_SIMPLEX,
                        0.35,
                        (80, 220, 80),
                    )
            panel = cv2.copyMakeBorder(panel, 22, 0, 0, 6, cv2.BORDER_CONSTANT, value=(32, 32, 32))
            panels.append(
                cv2.putText(panel, name, (2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (230, 230, 230))
            )
    return np.concatenate(panels, axis=1)
