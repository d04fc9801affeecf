"""The results of the GPU check: a file of JSON lines, and tables in Markdown."""

import datetime
import json
import platform
from pathlib import Path
from typing import Any

from benchmarks.command_line import ROOT
from benchmarks.gpu.figures import Figure
from common.errors import UserError
from deploy.nvidia import find_driver

HOW_TO = ROOT / "docs" / "how-to" / "gpu.md"
# the part of HOW_TO that `write_docs` replaces
BEGIN, END = "<!-- begin: results -->", "<!-- end: results -->"


def machine(is_dry: bool) -> dict[str, Any] | None:
    """Card, driver and versions, as the first line of the results file.

    None where torch can use no GPU and the run is not dry.
    """
    # imported here: they take seconds, and whoever only shows results needs neither
    import onnxruntime
    import torch

    if not is_dry and not torch.cuda.is_available():
        return None
    driver = find_driver()
    return {
        "date": datetime.date.today().isoformat(),
        "card": "none: a dry run on the CPU"
        if is_dry
        else ", ".join(gpu.name for gpu in driver.gpus),
        "driver": str(driver.version) if driver else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "onnxruntime": onnxruntime.__version__,
    }


def format_results(lines: list[str]) -> str:
    """The Markdown of a results file's lines: the machine, and a table for each step."""
    first, *rest = map(json.loads, lines)
    parts = ["; ".join(f"{name} {value}" for name, value in first.items())]
    step = None
    for line in rest:
        if line["step"] != step:
            step = line["step"]
            parts.append(f"\n| {step.replace('_', ' ')} | measured | wanted |\n| --- | --- | --- |")
        figure = Figure(**{name: value for name, value in line.items() if name != "step"})
        cells = (cell.replace("|", "\\|") for cell in figure.cells)
        parts.append(f"| {' | '.join(cells)} |")
    return "\n".join(parts)


def write_docs(results: Path) -> None:
    """Put the tables of a results file into HOW_TO.

    Raises `UserError` where the file is none, or of a dry run.
    """
    try:
        lines = results.read_text().splitlines()
        card, text = json.loads(lines[0])["card"], format_results(lines)
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(f"{results}: expected a results file of benchmarks.gpu") from None
    if card.startswith("none"):
        raise UserError(f"{results}: found a dry run, expected results of a GPU")
    before, rest = HOW_TO.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    HOW_TO.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
