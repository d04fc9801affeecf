"""The settings of a run: what the loop reads of them, and how they are written and read with the
run.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from common.settings import from_values


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What the training loop needs to know, whatever is trained; the fields have the names of the
    flags.

    A tool adds its own settings in a subclass. `num_workers` None means the loader's default.
    """

    checkpoint_path: Path
    bs: int
    accumulate: int
    lr: float
    lr_schedule: str
    epochs: int
    gpu_id: int | None
    seed: int
    num_workers: int | None
    save_every: float  # minutes
    patience: int | None  # epochs
    amp: bool
    compile: bool
    deterministic: bool
    sync_batch_norm: bool

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """From the values of a command line or of a checkpoint."""
        return from_values(cls, values)

    def plain(self) -> dict[str, Any]:
        """Every setting as a number, string, list or dict, paths absolute: as it is written with
        the run.
        """
        return {setting.name: as_plain(getattr(self, setting.name)) for setting in fields(self)}


@dataclass(frozen=True)
class Start:
    """How a run is started, which is no part of what it is.

    `resume` is the checkpoint or folder to go on from, True for the newest run in the checkpoint
    folder; `given` names the settings that the command line has.
    """

    resume: bool | Path | None = None
    overwrite: bool = False
    given: frozenset[str] = field(default_factory=frozenset)


def as_plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return list(value) if isinstance(value, tuple) else value
