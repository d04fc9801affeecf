"""Markdown tables on stdout, a line at a time: a slow benchmark shows each row when it is ready."""


def print_header(*titles: str) -> None:
    """Print the titles of a table's columns and the line below them. A title may be empty."""
    print("|" + "".join(f" {title} |" if title else " |" for title in titles))
    print("|" + " --- |" * len(titles), flush=True)


def print_row(*cells: object) -> None:
    """Print one row of a table. A cell may itself contain `|` and then fills several columns."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def format_seeds(values: list[float | None], form: str = ".3f") -> str:
    """The mean of the seeds' values, with the lowest and the highest of several."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    ends = f" ({min(known):{form}} to {max(known):{form}})" if len(known) > 1 else ""
    return f"{sum(known) / len(known):{form}}{ends}"
