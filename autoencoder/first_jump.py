"""A threshold without labels: the first jump in a folder's sorted scores.

It needs the whole folder at once, and most of the pictures in it must be good.
"""

from collections.abc import Sequence

import numpy as np

from common.errors import UserError

BASE = 20  # lowest scores, taken as those of good pictures
# Times their mean gap. The sparse upper tail has wide gaps of its own: of 40 to 2000 good pictures
# with normal scores, one folder in ten has a gap above 9 to 12 times the mean gap.
FACTOR = 12.0


def first_jump(scores: Sequence[float], base: int = BASE, factor: float = FACTOR) -> float | None:
    """The middle of the first gap above the `base` lowest scores that is wide, or None.

    A gap between two neighbours among the sorted scores is wide when it is more than `factor` times
    the mean gap among the `base` lowest ones. Scores above the result lie beyond the jump. None
    means that there is no such gap, as where all scores are equal, or that no more than `base`
    scores are given, which leaves nothing to compare.

    Raises `UserError` for a base of fewer than two, a factor that is not positive, and for scores
    that are not finite.
    """
    if base < 2:
        raise UserError(f"--jump_base: found {base}, expected at least 2")
    if not factor > 0:
        raise UserError(f"--jump_factor: found {factor:g}, expected a positive number")
    ordered = np.sort(np.asarray(scores, np.float64))
    if not np.isfinite(ordered).all():
        raise UserError("--first_jump: found scores that are not finite, expected numbers")
    if len(ordered) <= base:
        return None
    gaps = np.diff(ordered)
    wide = np.flatnonzero(gaps[base - 1 :] > factor * gaps[: base - 1].mean())
    if not len(wide):
        return None
    below = base - 1 + int(wide[0])
    return float((ordered[below] + ordered[below + 1]) / 2)
