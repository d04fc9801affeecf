"""The report's Jinja templates: every value that they show is escaped, whatever it holds."""

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
# control characters, and bytes of a file name that is no UTF-8
NOT_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def render(template: str, **values: object) -> Markup:
    """A file of TEMPLATES with its values, as HTML that another template includes unchanged.

    Values need be neither escaped nor valid text. Raises `jinja2.UndefinedError` for a value that
    the template uses and that is not given.
    """
    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _printable(value: object) -> str:
    """A value's text, with a replacement character for each that is no text; HTML as it is."""
    if isinstance(value, Markup):
        return value
    return NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", str(value))
