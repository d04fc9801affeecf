"""What is known of a model, whatever file it comes from."""

from common.errors import UserError

STRIP_DETECTOR = "strip detector"  # the tool of a file that names none


def require_tool(found: object, expected: str) -> None:
    """Raise `UserError`, without the path, when a model was made by another tool than the one that
    reads it.
    """
    if found != expected:
        raise UserError(f"found a model of the {found}, expected one of the {expected}")
