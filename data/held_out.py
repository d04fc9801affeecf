"""Validation strips for a data set without valid/: some of its good strips, set aside and painted."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from data.folder import GOOD, StripFile

SHARE = 10  # one strip in so many
SEED = 20_000  # of its own, so that runs with different seeds validate on the same pictures
PAINTED = "painted"  # the kind of a set-aside strip with defects


def set_aside(strips: list[StripFile], recipe: str) -> tuple[list[StripFile], list[StripFile]]:
    """The strips to train on, and the strips to validate on: each of these twice, good and painted.

    A tenth is set aside, at least one, but never the only one. Which ones, and what is painted into them, depends on nothing
    but the list of strips and the recipe, whose points they are.
    """
    if len(strips) < 2:
        return strips, []
    count = max(1, len(strips) // SHARE)
    chosen = set(np.random.default_rng(SEED).permutation(len(strips))[:count].tolist())
    validation = []
    for number in sorted(chosen):
        strip = strips[number]
        validation.append(replace(strip, relative=Path(GOOD) / strip.relative, kind=GOOD))
        validation.append(
            replace(strip, relative=Path(PAINTED) / strip.relative, kind=PAINTED, painted_with=(SEED, number), painted_by=recipe)
        )
    return [strip for number, strip in enumerate(strips) if number not in chosen], validation
