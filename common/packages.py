"""Packages that only some commands, or flags, need."""

from importlib.util import find_spec

from common.errors import UserError

REQUIREMENTS = "requirements-scale.txt"
DEVELOPMENT = "requirements-scale-dev.txt"  # with a server of object storage


def require_packages(*names: str, requirements: str = REQUIREMENTS) -> None:
    """Raise `UserError` with what to install where one of these packages is missing."""
    if missing := [name for name in names if find_spec(name) is None]:
        raise UserError(
            f"found no package {', '.join(missing)}, expected it: pip install -r {requirements}"
        )
