"""YAML files that a user writes: a few lines of names and values."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError, one_line, shown
from common.files import require_regular

LARGEST_FILE = 2**20  # bytes


class _Loader(yaml.SafeLoader):
    """Refuses a name that comes twice, of which YAML takes the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = Counter(str(key.value) for key, _ in node.value)
        for name, times in names.items():
            if times > 1:
                raise yaml.YAMLError(f"{name} comes {times} times")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, example: str) -> dict[str, Any]:
    """Return the names and values of a file.

    Raises `UserError`, without the path, for a file that cannot be read or holds something else.
    It shows the `example` of a line.
    """
    try:
        require_regular(path)
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"found more than {LARGEST_FILE:,} bytes, expected a few lines")
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(
            f"found no readable YAML file ({reason}), expected lines such as {example}"
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            f"found {shown(content)}, expected lines of names and values such as {example}"
        )
    return content
