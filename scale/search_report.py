"""Write what a search has found: as JSON, as amounts to train with, and as lines."""

from dataclasses import asdict
from typing import Any

import yaml

from common.files import atomic_write
from reporting.tables import write_json
from scale.search_result import AMOUNTS_FILE, SearchResult
from scale.study import SharedStudy

RESULT_FILE = "result.json"


def write_search_report(shared: SharedStudy) -> list[str]:
    """Write what is known so far into the study's folder, and return it as lines."""
    result = SearchResult(shared)
    write_json(shared.folder / RESULT_FILE, summarize(result))
    if amounts := result.amounts():
        with atomic_write(shared.folder / AMOUNTS_FILE) as temporary:
            temporary.write_text(yaml.safe_dump(amounts))
    lines = [
        f"{len(result.trials)} trials trained to the end, {result.ended_early} ended early, "
        f"{len(result.failed)} failed",
        result.verdict(),
    ]
    command = result.command()
    return [*lines, *([f"next: {command}"] if command else [])]


def summarize(result: SearchResult) -> dict[str, Any]:
    """The content of RESULT_FILE."""
    return {
        "objective": result.objective.metric.removeprefix("valid_"),
        "verdict": result.verdict(),
        "recommended": result.recommended.number if result.recommended else None,
        "command": result.command(),
        "trials": [
            {
                "trial": trial.number,
                "is_default": trial.is_default,
                "values": trial.values,
                "recall": asdict(trial.recall),
            }
            for trial in result.trials
        ],
        "ended_early": result.ended_early,
        "failed": result.failed,
        "finals": [
            {
                "trial": None if finalist.is_default else finalist.number,
                "values": finalist.values,
                "recalls": finalist.recalls,
                "recall": asdict(finalist.recall),
                "comparison": finalist.comparison and asdict(finalist.comparison),
            }
            for finalist in result.finalists
        ],
        "importances": result.importances(),
        "cover": [
            {"trial": trial.number, "new": new, "together": together}
            for trial, new, together in result.cover()
        ],
        "points": result.points(),
    }
