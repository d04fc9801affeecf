"""Settings as dataclasses, built from the values of a command line or of a file."""

from dataclasses import fields
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def from_values(kind: type[Settings], values: dict[str, Any]) -> Settings:
    """A dataclass from the values of its fields' names; lists become tuples, other values do not count."""
    known = {entry.name: values[entry.name] for entry in fields(kind) if entry.name in values}
    return kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in known.items()
        }
    )
