"""What a step of the GPU check yields: figures, and what is wanted of them."""

import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from common.errors import one_line


@dataclass(frozen=True)
class Figure:
    """One line of the table: a name, a value with its unit, and what is wanted of it.

    `is_met` is None where nothing is wanted, and in a dry run for what only a GPU can meet.
    """

    name: str
    value: float | str
    unit: str = ""
    wanted: str = ""
    is_met: bool | None = None

    def as_json(self, step: str) -> str:
        """One line of the results file."""
        return json.dumps({"step": step} | asdict(self))

    @property
    def cells(self) -> tuple[str, str, str]:
        """The cells of the Markdown table: name, value, and what is wanted with a verdict."""
        value = self.value if isinstance(self.value, str) else format_number(self.value)
        verdict = {None: "", True: ": yes", False: ": **no**"}[self.is_met]
        return self.name, f"{value} {self.unit}".strip(), f"{self.wanted}{verdict}"


def at_most(
    name: str, value: float, limit: float, unit: str = "", is_binding: bool = True
) -> Figure:
    """A figure that must not exceed a limit; NaN does. Without `is_binding` nothing is judged."""
    wanted = f"at most {format_number(limit)}"
    return Figure(name, value, unit, wanted, bool(value <= limit) if is_binding else None)


def at_least(
    name: str, value: float, limit: float, unit: str = "", is_binding: bool = True
) -> Figure:
    """A figure that must reach a limit; NaN does not. Without `is_binding` nothing is judged."""
    wanted = f"at least {format_number(limit)}"
    return Figure(name, value, unit, wanted, bool(value >= limit) if is_binding else None)


def is_so(name: str, condition: bool, found: str = "") -> Figure:
    """A statement that must be true; `found` is shown with the answer."""
    answer = "yes" if condition else "no"
    return Figure(name, f"{answer} ({found})" if found else answer, "", "yes", bool(condition))


def attempt(name: str, figures: Callable[[], Iterator[Figure]]) -> Iterator[Figure]:
    """The figures; where an error ends them, one more says so, and the step goes on."""
    try:
        yield from figures()
    except Exception as error:  # whatever a library raises: the rest is to be measured, too
        traceback.print_exc()
        yield Figure(name, f"{type(error).__name__}: {one_line(error)}", "", "no error", False)


def format_number(value: float) -> str:
    """A number with three significant digits; larger ones with all digits of the integer."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
