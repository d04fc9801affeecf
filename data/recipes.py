"""The two recipes by name: how a good patch becomes a training sample.

A recipe is called with a patch (3, h, w) float32, grey levels 0-255, and its empty mask (h, w)
float32. It changes both in place. All random numbers come from the generator that is given, so a
sample depends on its seed alone. The classic recipe paints strong defects into half of the patches.
The robust recipe first makes the channels differ as those of good strips do, then paints points of
any size and contrast into any of them. A defect is still a point that is in Target and in neither
reference.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from common.settings import from_values
from data.augmentation import AugmentationSettings, augment, measure_noise, shuffle_channels
from data.points import PointSettings, draw_points, paint_points
from gaussian import (
    MAX_GREY,
    PAINTED_SHARE,
    REF1,
    STRIP_DEFECTS_RANGE,
    TARGET,
    paint_defects,
)

Synthesis = Callable[[np.ndarray, np.ndarray, np.random.Generator], None]


@dataclass(frozen=True)
class ClassicRecipe:
    """The classic recipe's defects, (fewest, most), in half of the patches."""

    num_defects_range: tuple[int, int]

    def __call__(self, image: np.ndarray, mask: np.ndarray, generator: np.random.Generator) -> None:
        """Change a patch (3, h, w) and its mask (h, w) in place."""
        if generator.random() < PAINTED_SHARE:
            paint_defects(image, mask, generator, self.num_defects_range)


@dataclass(frozen=True)
class RobustRecipe:
    """Augmentation in every patch, and (fewest, most) points in most of them."""

    num_defects_range: tuple[int, int]
    nuisances: AugmentationSettings = field(default_factory=AugmentationSettings)
    points: PointSettings = field(default_factory=PointSettings)

    def __call__(self, image: np.ndarray, mask: np.ndarray, generator: np.random.Generator) -> None:
        """Change a patch (3, h, w) and its mask (h, w) in place."""
        patch = shuffle_channels(image, generator)
        augment(patch, self.nuisances, generator)
        if generator.random() < self.points.painted_share:
            count = int(
                generator.integers(self.num_defects_range[0], self.num_defects_range[1] + 1)
            )
            noise = measure_noise(patch[TARGET], patch[REF1])
            paint_points(
                patch,
                mask,
                draw_points(generator, self.points, count, mask.shape, noise),
                self.points,
            )
        np.clip(patch, 0, MAX_GREY, out=image)


CLASSIC, ROBUST = "classic", "robust"
# (fewest, one more than most) points of a whole strip: about fifteen defects
ROBUST_STRIP_RANGE = (30, 50)
RECIPES: dict[str, Callable[[tuple[int, int]], Synthesis]] = {
    CLASSIC: ClassicRecipe,
    ROBUST: RobustRecipe,
}
# Values of trainer.py's other flags with a recipe, unless they are given.
RECIPE_DEFAULTS: dict[str, dict[str, Any]] = {
    CLASSIC: {},
    ROBUST: {
        # a rising gamma down-weights faint points, which dominate this recipe
        "gamma_schedule": "constant",
        "lr": 0.002,  # the cycle's maximum; it ends at 0
        "lr_schedule": "one_cycle",
    },
}


def make_recipe(
    name: str, num_defects_range: tuple[int, int], amounts: dict[str, Any]
) -> Synthesis:
    """Return a recipe with the amounts that `settings_of_recipe` names; it has no others."""
    if name == CLASSIC:
        return ClassicRecipe(num_defects_range)
    return RobustRecipe(
        num_defects_range, from_values(AugmentationSettings, amounts), point_settings(amounts)
    )


def point_settings(amounts: dict[str, Any]) -> PointSettings:
    """Return the settings of a recipe's points among its amounts, defaults where there are none."""
    return from_values(PointSettings, amounts)


def settings_of_recipe(name: str) -> dict[str, Any]:
    """Return every amount of a recipe as plain values, by name.

    The classic recipe has none, because its constants never change.
    """
    recipe = RECIPES[name]((0, 0))
    if not isinstance(recipe, RobustRecipe):
        return {}
    amounts = asdict(recipe.nuisances) | asdict(recipe.points)
    return {
        field: list(value) if isinstance(value, tuple) else value
        for field, value in amounts.items()
    }


def paint_strip(
    recipe: str,
    image: np.ndarray,
    mask: np.ndarray,
    generator: np.random.Generator,
    amounts: PointSettings | None = None,
) -> None:
    """Paint a recipe's defects and background points, and nothing else, into a whole strip.

    It is for validation. The strip (3, H, W), grey levels 0-255, and its mask (H, W) float32, in
    which the defects are marked, change in place. `amounts` None are the robust recipe's defaults.
    """
    if recipe == CLASSIC:
        paint_defects(image, mask, generator, STRIP_DEFECTS_RANGE)
        return
    amounts, count = amounts or PointSettings(), int(generator.integers(*ROBUST_STRIP_RANGE))
    points = draw_points(
        generator, amounts, count, mask.shape, measure_noise(image[TARGET], image[REF1])
    )
    paint_points(image, mask, points, amounts)
    np.clip(image, 0, MAX_GREY, out=image)
