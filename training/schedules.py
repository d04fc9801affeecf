"""Schedules of gamma and the learning rate.

They are functions of epoch and step alone, so a resumed run needs no state of theirs.
"""

import math

GAMMA_SCHEDULES = ("cosine", "linear", "exponential", "constant")
LEARNING_RATE_SCHEDULES = ("steps", "one_cycle")
WARM_UP = 0.1  # share of a run in which one_cycle rises
WARM_UP_START = 0.04  # one_cycle's first learning rate, as a share of the largest
LEARNING_RATE_DROPS = (0.8, 0.9)  # shares of the epochs at which `steps` lowers the learning rate
LEARNING_RATE_FACTOR = 0.2  # of each of these drops
# share of the epochs of one_cycle after which the learning rate is below a fifth of its largest
SETTLED = 0.75


def gamma_at(epoch: int, epochs: int, start: float, end: float, schedule: str = "cosine") -> float:
    """Gamma of one epoch, counted from 0.

    It is exactly `start` in the first epoch and `end` in the last; a single epoch uses `end`.
    `exponential` is start * (end / start)^t, so both must be positive. `constant` is `start`
    throughout. Raises `ValueError` for an unknown schedule.
    """
    if schedule not in GAMMA_SCHEDULES:
        raise ValueError(
            f"found gamma schedule {schedule!r}, expected one of {', '.join(GAMMA_SCHEDULES)}"
        )
    if schedule == "constant":
        return start
    progress = epoch / (epochs - 1) if epochs > 1 else 1.0
    if progress in (0.0, 1.0):
        return end if progress else start
    if schedule == "cosine":
        return start + (end - start) * (1 - math.cos(math.pi * progress)) / 2
    if schedule == "linear":
        return start + (end - start) * progress
    return start * (end / start) ** progress


def learning_rate_at(progress: float, epochs: int, start: float, schedule: str = "steps") -> float:
    """The learning rate after `progress` of `epochs`, where `progress` may be a fraction.

    `steps` is `start`, a fifth of it from 80 % of the epochs on and a 25th from 90 % on, constant
    within an epoch. `one_cycle` rises to `start` in the first tenth, then falls to 0 on a cosine
    (Smith and Topin 2017, "Super-convergence", arXiv:1708.07120). Raises `ValueError` for an
    unknown schedule.
    """
    if schedule not in LEARNING_RATE_SCHEDULES:
        raise ValueError(
            f"found learning rate schedule {schedule!r}, "
            f"expected one of {', '.join(LEARNING_RATE_SCHEDULES)}"
        )
    if schedule == "steps":
        drops = sum(int(progress) >= math.ceil(epochs * share) for share in LEARNING_RATE_DROPS)
        return start * LEARNING_RATE_FACTOR**drops
    share = progress / epochs
    if share < WARM_UP:
        return start * (WARM_UP_START + (1 - WARM_UP_START) * share / WARM_UP)
    return start * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))) / 2


def is_eligible(epoch: int, epochs: int, schedule: str) -> bool:
    """Whether the weights after an epoch, counted from 1, may become a run's best.

    With `one_cycle` only those of the last quarter may. The schedule gains from its falling
    learning rate, so earlier weights are worse, even where easy validation strips do not show it.
    """
    return schedule != "one_cycle" or epoch > SETTLED * epochs
