"""What a search varies: flags of trainer.py and amounts of its recipe, each fixed or searched.

A value stands for itself. `{choices: [...]}` is one of several values, and `{low: ..., high: ...}`,
with `log: true` where that suits, a number between. In a list of two, each entry may be searched.
Everything is checked with trainer.py's own parser, and amounts as in --recipe_settings.
"""

import difflib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from common.errors import UserError, prefix_errors, shown
from data.recipe_file import check_amounts, check_names
from data.recipes import ROBUST, settings_of_recipe
from trainer import make_parser

# flags that the search sets itself
RESERVED = (
    *("name", "checkpoint_path", "resume", "overwrite", "training_dataset_path", "seed"),
    *("recipe_settings", "help", "version"),
)
AMOUNTS = "amounts."  # in front of an amount's name among the parameters


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    @property
    def labels(self) -> list[Any]:
        """What stands for each value in the study, which takes no lists."""
        return [json.dumps(each) if isinstance(each, list) else each for each in self.values]

    def extremes(self) -> list[Any]:
        """The values that decide whether all are valid."""
        return list(self.values)


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`: whole where both are."""

    low: float
    high: float
    log: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def extremes(self) -> list[float]:
        """The values that decide whether all are valid."""
        return [self.low, self.high]


Part = Choice | Between
Draw = Callable[[str, Part], Any]  # a parameter's name and its part of the space to a value


@dataclass(frozen=True)
class Space:
    """Fixed values, and searched ones: a part, or a list of parts and numbers, by name."""

    fixed_flags: dict[str, Any]
    flags: dict[str, Part | list[Any]] = field(default_factory=dict)
    fixed_amounts: dict[str, Any] = field(default_factory=dict)
    amounts: dict[str, Part | list[Any]] = field(default_factory=dict)

    def parameters(self) -> dict[str, Part]:
        """Every searched part by the name of its parameter, such as `amounts.contrast.0`."""
        return dict(
            parameter
            for prefix, searched in (("", self.flags), (AMOUNTS, self.amounts))
            for name, value in searched.items()
            for parameter in _parts(prefix + name, value)
        )

    def draw(self, draw: Draw) -> dict[str, dict[str, Any]]:
        """Values of all searched `flags` and `amounts`, each part's given by `draw`."""
        return {
            kind: {name: _drawn(prefix + name, value, draw) for name, value in searched.items()}
            for kind, prefix, searched in (
                ("flags", "", self.flags),
                ("amounts", AMOUNTS, self.amounts),
            )
        }


def _parts(name: str, value: Part | list[Any]) -> Iterator[tuple[str, Part]]:
    if not isinstance(value, list):
        yield name, value
        return
    for number, entry in enumerate(value):
        if isinstance(entry, Part):
            yield f"{name}.{number}", entry


def _drawn(name: str, value: Part | list[Any], draw: Draw) -> Any:
    if not isinstance(value, list):
        return draw(name, value)
    return [
        draw(f"{name}.{number}", entry) if isinstance(entry, Part) else entry
        for number, entry in enumerate(value)
    ]


def read_space(flags: Any, amounts: Any) -> Space:
    """Return the space of a spec's `flags` and `amounts`.

    Raises `UserError` for a name or a value that trainer.py does not take, where nothing is
    searched, and without a number of epochs.
    """
    groups = {}
    for name, content in (("flags", flags), ("amounts", amounts)):
        if not isinstance(content, dict):
            raise UserError(f"found {name} {shown(content)}, expected names and values")
        with prefix_errors(name):
            parsed = {str(key): _parse(str(key), value) for key, value in content.items()}
        groups[name] = (
            {key: value for key, value in parsed.items() if not _is_searched(value)},
            {key: value for key, value in parsed.items() if _is_searched(value)},
        )
    space = Space(*groups["flags"], *groups["amounts"])
    if not space.parameters():
        raise UserError(
            "found nothing to search, expected a flag or an amount with choices, or low and high"
        )
    if type(space.fixed_flags.get("epochs")) is not int:
        raise UserError(
            "flags: found no fixed epochs, expected their number: "
            "trials are compared epoch by epoch"
        )
    with prefix_errors("flags"):
        _check_flags(space)
    with prefix_errors("amounts"):
        _check_amounts(space)
    return space


def command_words(flags: dict[str, Any]) -> list[str]:
    """The words of trainer.py's command line for flags by name; a flag that is False is left out.

    Raises `UserError` for a value that no word stands for.
    """
    switches = {action.dest for action in make_parser()._actions if action.nargs == 0}
    words: list[str] = []
    for name, value in flags.items():
        if name in switches:
            if not isinstance(value, bool):
                raise UserError(f"{name}: found {shown(value)}, expected true or false")
            words += [f"--{name}"] if value else []
            continue
        entries = value if isinstance(value, list) else [value]
        if not all(isinstance(entry, str | int | float) for entry in entries):
            raise UserError(f"{name}: found {shown(value)}, expected text or numbers")
        words += [f"--{name}", *map(str, entries)]
    return words


def _check_flags(space: Space) -> None:
    parser = make_parser()
    known = {action.dest for action in parser._actions}  # argparse has no public way to its flags
    for name in (*space.fixed_flags, *space.flags):
        if name in RESERVED:
            raise UserError(f"found {name}, which the search sets itself, expected another flag")
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            advice = f"did you mean {close[0]}?" if close else "expected one of trainer.py --help"
            raise UserError(f"found no flag {name}: {advice}")

    def refuse(message: str) -> None:
        raise UserError(message)

    parser.error = refuse
    candidates = [{name: value} for name, value in space.fixed_flags.items()]
    candidates += [{name: value} for name, part in space.flags.items() for value in _extremes(part)]
    for candidate in candidates:
        parser.parse_args(command_words(candidate))


def _check_amounts(space: Space) -> None:
    names = {**space.fixed_amounts, **space.amounts}
    if not names:
        return
    recipe = space.fixed_flags.get("recipe", ROBUST)
    if recipe != ROBUST or "recipe" in space.flags:
        raise UserError(f"found amounts beside another recipe, expected --recipe {ROBUST} alone")
    base = settings_of_recipe(ROBUST) | check_names(names, ROBUST)
    base = {name: value for name, value in base.items() if name not in space.amounts}
    check_amounts(settings_of_recipe(ROBUST) | base)
    for name, part in space.amounts.items():
        for value in _extremes(part):
            check_amounts(settings_of_recipe(ROBUST) | {name: value})


def _extremes(value: Part | list[Any]) -> list[Any]:
    """Values that decide whether all values of a part, or of a list of parts, are valid."""
    if not isinstance(value, list):
        return value.extremes()
    entries = [entry.extremes() if isinstance(entry, Part) else [entry] for entry in value]
    return [[entry[at] for entry in entries] for at in (0, -1)]


def _is_searched(value: Any) -> bool:
    is_list = isinstance(value, list)
    return any(isinstance(entry, Part) for entry in (value if is_list else [value]))


def _parse(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_parse_part(name, entry) if isinstance(entry, dict) else entry for entry in value]
    return _parse_part(name, value) if isinstance(value, dict) else value


def _parse_part(name: str, value: dict[str, Any]) -> Part:
    choices = value.get("choices")
    if set(value) == {"choices"} and isinstance(choices, list) and len(choices) > 1:
        return Choice(tuple(choices))
    log = value.get("log", False)
    if {"low", "high"} <= set(value) <= {"low", "high", "log"} and isinstance(log, bool):
        low, high = _number(value["low"]), _number(value["high"])
        if log and low is not None and low <= 0:
            raise UserError(f"{name}: found low {low} beside log, expected a number above 0")
        if low is not None and high is not None and low < high:
            return Between(low, high, log)
    raise UserError(
        f"{name}: found {shown(value)}, expected choices: [...] of two or more, "
        "or low and high, and perhaps log: true"
    )


def _number(value: Any) -> float | None:
    """A number, of a text such as 1e-4 too, which YAML takes for a number only as 1.0e-4."""
    if type(value) in (int, float) and math.isfinite(value):
        return value
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
