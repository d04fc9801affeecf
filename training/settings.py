"""The settings of a run that the training loop reads, and their form in a run's files."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """The settings of the training loop, for any task; the fields are named like the flags.

    A tool adds its own settings in a subclass. `num_workers` None means the loader's default, and
    `patience` None never ends a run early.
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

    def plain(self) -> dict[str, Any]:
        """The settings as they are written: numbers, strings, lists and dicts, paths absolute."""
        return {setting.name: as_plain(getattr(self, setting.name)) for setting in fields(self)}


@dataclass(frozen=True)
class Start:
    """How a run is started; this does not belong to its settings.

    `resume` is the checkpoint or folder to continue from; True means the newest run in the
    checkpoint folder, None a new run. `given` names the settings that the command line sets.
    """

    resume: bool | Path | None = None
    overwrite: bool = False
    given: frozenset[str] = field(default_factory=frozenset)


def as_plain(value: Any) -> Any:
    """A setting in plain form: a path as absolute text, a tuple as a list."""
    if isinstance(value, Path):
        return str(value.absolute())
    return list(value) if isinstance(value, tuple) else value
