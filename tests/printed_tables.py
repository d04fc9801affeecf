"""What a benchmark prints."""


def cells(printed: str, row: str) -> list[str]:
    """The cells of the first row of a printed table whose first cell is `row`."""
    line = next(line for line in printed.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]
