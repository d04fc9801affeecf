"""Build settings dataclasses from the values of a command line or of a file."""

from dataclasses import fields
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def from_values(kind: type[Settings], values: dict[str, Any]) -> Settings:
    """Build a dataclass of type `kind` from those `values` that are named like its fields.

    Lists become tuples. Other values are ignored. Raises `TypeError` when a field without a default
    has no value.
    """
    known = {entry.name: values[entry.name] for entry in fields(kind) if entry.name in values}
    return kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in known.items()
        }
    )
