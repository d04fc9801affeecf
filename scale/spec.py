"""The spec of a search: a YAML file with the strips, the objective, and what is searched."""

import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from common.errors import UserError, prefix_errors, shown
from common.yaml_file import read_yaml
from data.unlabelled import SampledFolder, parse_sampled_folder
from evaluation.ranks import RANKS
from evaluation.thresholds import HIGHEST_RATE
from scale.space import Space, read_space

EXAMPLE = "trials: 30"
LARGEST_SEED = 2**32 - 1
REQUIRED = ("study", "training_dataset_path", "test_path", "objective", "trials", "flags")


@dataclass(frozen=True)
class Objective:
    """What is maximized: recall among the `k` strongest detections, or at a rate of false alarms.

    One of `k` and `false_alarms`, per strip, is None.
    """

    k: int | None = None
    false_alarms: float | None = None

    @property
    def metric(self) -> str:
        """The metric's name in a training's history."""
        at = f"in_top_{self.k}" if self.k else f"at_{self.false_alarms:g}"
        return f"valid_point_recall_{at}"

    def describe(self) -> str:
        """The objective in words."""
        if self.k:
            return f"recall of the known points among the {self.k} strongest detections"
        return f"recall of the known points at {self.false_alarms:g} false alarms per strip"


@dataclass(frozen=True)
class Spec:
    """A search, as its file says.

    `study` is the folder of everything that it writes. `sample` is the share of the strips, 0-1,
    that the search trains on and scores; the `finalists` best settings are then trained on all of
    them with as many `seeds`. `seed` is that of the sampler.
    """

    study: Path
    training_dataset_path: Path
    test_path: Path
    objective: Objective
    trials: int
    space: Space
    points: Path | None = None
    fp_path: tuple[SampledFolder, ...] = ()
    sample: float = 1.0
    finalists: int = 3
    seeds: int = 3
    seed: int = 1

    @property
    def epochs(self) -> int:
        """The epochs of each training."""
        return self.space.fixed_flags["epochs"]


def read_spec(path: Path) -> Spec:
    """Return the spec of a file. Raises `UserError`, naming the file, where it is not one."""
    with prefix_errors(path):
        return parse_spec(read_yaml(path, EXAMPLE))


def parse_spec(content: dict[str, Any]) -> Spec:
    """Return the spec of a file's content. Raises `UserError` where it is not one."""
    known = [entry.name for entry in fields(Spec) if entry.name != "space"] + ["flags", "amounts"]
    for name in content:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            advice = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"
            raise UserError(f"found {shown(name)}: {advice}")
    if missing := [name for name in REQUIRED if content.get(name) is None]:
        raise UserError(f"found no {missing[0]}, expected it")
    objective = _objective(content["objective"])
    space = read_space(content["flags"], content.get("amounts") or {})
    if objective.false_alarms and "target_false_alarms" in (*space.fixed_flags, *space.flags):
        raise UserError("found target_false_alarms among flags, expected it in objective alone")
    share = content.get("sample", 1.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise UserError(f"found sample {shown(share)}, expected a share above 0 and up to 1")
    return Spec(
        _local_folder(content["study"]),
        _path(content, "training_dataset_path"),
        _path(content, "test_path"),
        objective,
        _count(content, "trials", 1),
        space,
        _path(content, "points") if content.get("points") is not None else None,
        tuple(_sampled_folders(content.get("fp_path"))),
        float(share),
        _count(content, "finalists", 1, 3),
        _count(content, "seeds", 1, 3),
        _count(content, "seed", 0, 1, LARGEST_SEED),
    )


def _objective(value: Any) -> Objective:
    name, number = next(iter(value.items())) if isinstance(value, dict) and value else (None, None)
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if is_number and len(value) == 1:
        if name == "recall_at_k" and number in RANKS:
            return Objective(k=int(number))
        if name == "false_alarms" and 0 < number <= HIGHEST_RATE:
            return Objective(false_alarms=float(number))
    raise UserError(
        f"found objective {shown(value)}, expected recall_at_k: one of "
        f"{', '.join(map(str, RANKS))}, or false_alarms: a rate up to {HIGHEST_RATE:g} per strip"
    )


def _local_folder(value: Any) -> Path:
    """The study's folder: no database and no object, for the processes share it as a journal."""
    if not isinstance(value, str) or "://" in value or value.endswith((".db", ".sqlite")):
        raise UserError(
            f"found study {shown(value)}, expected a folder that all processes share: neither a "
            "database, which file systems of a network corrupt, nor object storage, which has no "
            "locks"
        )
    return Path(value)


def _path(content: dict[str, Any], name: str) -> Path:
    value = content[name]
    if not isinstance(value, str) or not Path(value).exists():
        raise UserError(
            f"found no such file or folder as {name} {shown(value)}, expected a local one"
        )
    return Path(value)


def _sampled_folders(value: Any) -> list[SampledFolder]:
    texts = [] if value is None else value if isinstance(value, list) else [value]
    found = []
    for text in texts:
        with prefix_errors("fp_path"):
            entry = parse_sampled_folder(str(text))
        if not entry.folder.is_dir():
            raise UserError(f"found no folder as fp_path {shown(text)}, expected FOLDER:SHARE")
        found.append(entry)
    return found


def _count(
    content: dict[str, Any],
    name: str,
    least: int,
    default: int | None = None,
    most: int = 1_000_000,
) -> int:
    value = content.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise UserError(
            f"found {name} {shown(value)}, expected a whole number from {least} to {most}"
        )
    return value
