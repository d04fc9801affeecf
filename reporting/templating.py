"""The report's Jinja templates, which escape every value that they show."""

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.numbers import three_digits

TEMPLATES = Path(__file__).with_name("templates")
# control characters, and bytes of a file name that is not valid UTF-8
NOT_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def render(template: str, **values: object) -> Markup:
    """Render a file of TEMPLATES as HTML, which other templates include without escaping.

    Values need be neither escaped nor valid Unicode. Raises `jinja2.UndefinedError` when the
    template uses a value that is not given.
    """
    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["three_digits"] = three_digits
    return environment


def _printable(value: object) -> str:
    """A value as text, with every character of NOT_TEXT replaced; HTML stays unchanged."""
    if isinstance(value, Markup):
        return value
    return NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", str(value))
