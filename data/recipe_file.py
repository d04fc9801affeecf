"""The amounts of the robust recipe from a file or a checkpoint, checked by name and range."""

import difflib
import math
from pathlib import Path
from typing import Any

from common.errors import UserError, prefix_errors, shown
from common.yaml_file import read_yaml
from data.recipes import CLASSIC, settings_of_recipe

EXAMPLE = "contrast: [5, 100]"
SHARE = (0.0, 1.0)
# Lowest and highest value of each amount; of a range, both ends lie within. A range is log-uniform
# where its lowest value must be above 0.
LIMITS: dict[str, tuple[float, float]] = {
    # differences between the channels
    "shift": (0, 5),
    "wobble_share": SHARE,
    "wobble": (0, 10),
    "wobble_cell": (2, 1000),
    "gain": (0, 0.9),
    "offset": (0, 128),
    "illumination": (0, 128),
    "illumination_periods": (0.01, 10),
    "noise": (0, 64),
    "noise_factor": (0, 4),
    "stripe_share": SHARE,
    "stripe_count": (1, 50),
    "stripe_width": (0.3, 20),
    "stripe_strength": (0.1, 255),
    "stripe_factor": (0, 4),
    "stripe_everywhere": SHARE,
    "stripe_straight": SHARE,
    "stripe_whole": SHARE,
    "stripe_length": (2, 1000),
    # points
    "painted_share": (0.01, 1),
    "defect_share": (0.01, 1),
    "leak_share": SHARE,
    "leak": SHARE,
    "contrast": (0.1, 255),
    "noise_share": SHARE,
    "noise_contrast": (0.1, 100),
    "least_visibility": (0, 100),
    "smallest_contrast": (0, 255),
    "sigma": (0.2, 20),
    "large_share": SHARE,
    "large_sigma": (0.2, 20),
    "large_contrast": (0.1, 255),
    "elongation": (1, 20),
    "flat_share": SHARE,
    "large_flat_share": SHARE,
    "shared_factor": (0, 4),
    "shared_least": SHARE,
    "jitter": (0, 5),
    "beyond_border": (0, 20),
    "clearance": (0, 20),
    "tries": (1, 100),
    "mask_level": (0.01, 0.99),
    "visible_change": (0, 255),
    "visible_share": SHARE,
    "clearly_visible": (0, 255),
}


def read_recipe_settings(path: Path | None, recipe: str) -> dict[str, Any]:
    """Return all amounts of a recipe, those of a YAML file in place of the defaults.

    Without a file they are the defaults. Raises `UserError`, naming the file, for one that cannot
    be read, for the classic recipe, whose amounts are fixed, and as `check_amounts`.
    """
    if path is None:
        return settings_of_recipe(recipe)
    with prefix_errors(path):
        if recipe == CLASSIC:
            raise UserError("found --recipe classic, whose amounts are fixed, expected robust")
        given = read_yaml(path, EXAMPLE)
        return check_amounts(settings_of_recipe(recipe) | check_names(given, recipe))


def check_names(given: dict[str, Any], recipe: str) -> dict[str, Any]:
    """Return `given` if a recipe has all its names, else raise `UserError`, without the path."""
    known = settings_of_recipe(recipe)
    problems = []
    for name in (name for name in given if name not in known):
        close = difflib.get_close_matches(str(name), known, 1)
        advice = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"
        problems.append(f"found no amount {shown(name)} in --recipe {recipe}: {advice}")
    if problems:
        raise UserError("; ".join(problems))
    return given


def check_amounts(amounts: dict[str, Any]) -> dict[str, Any]:
    """Return all amounts of the robust recipe, ranges as lists, if each is of its type and range.

    Raises `UserError`, without the path, with all other values.
    """
    defaults = settings_of_recipe("robust")
    checked, problems = {}, []
    for name, value in amounts.items():
        try:
            checked[name] = _check(name, value, defaults[name])
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))
    largest, usual = checked["large_sigma"][1], checked["sigma"][1]
    if usual > largest:
        raise UserError(
            f"found sigma up to {usual:g} and large_sigma up to {largest:g}, "
            "expected large points to be the larger ones"
        )
    return checked


def _check(name: str, value: Any, default: Any) -> Any:
    low, high = LIMITS[name]
    is_range = isinstance(default, list)
    numbers = value if is_range else [value]
    if isinstance(numbers, list | tuple):
        numbers = [_without_text(entry) for entry in numbers]
    kind = int if isinstance(default[0] if is_range else default, int) else (int, float)
    what = "whole number" if kind is int else "number"
    text = f"two {what}s, the smaller one first," if is_range else f"a {what}"
    is_right = (
        isinstance(numbers, list | tuple)
        and len(numbers) == (2 if is_range else 1)
        and all(isinstance(entry, kind) and not isinstance(entry, bool) for entry in numbers)
        and all(low <= entry <= high for entry in numbers)
        and all(math.isfinite(entry) for entry in numbers)
        and numbers[0] <= numbers[-1]
    )
    if not is_right:
        raise UserError(f"found {name} {shown(value)}, expected {text} from {low:g} to {high:g}")
    return (
        [type(entry)(number) for entry, number in zip(default, numbers)]
        if is_range
        else (type(default)(numbers[0]))
    )


def _without_text(value: Any) -> Any:
    """A number for a text such as 1e1, which YAML takes for a number only as 1.0e+1."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
