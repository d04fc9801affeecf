"""--resume: which checkpoint a run continues from, and with which settings."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.errors import UserError
from training.checkpoint import BEST_SUFFIX
from training.run_folder import NOT_FINITE_SUFFIX
from training.settings import Start, as_plain

# entries of a checkpoint without which a run cannot continue
RESUME_KEYS = ("optimizer_state_dict", "history", "step", "loss_sum", "loss_count", "processes")
# settings that may change when a run is resumed; every other one defines the run and is kept
FREE_ON_RESUME = frozenset(
    (
        "checkpoint_path",
        "epochs",
        "gpu_id",
        "num_workers",
        "save_every",
        "patience",
        "compile",
        "deterministic",
    )
)


def find_last_checkpoint(start: Start, checkpoint_path: Path, pattern: str) -> Path:
    """The checkpoint that --resume names: a file, or the newest last checkpoint in a folder.

    In a folder, the name without its suffix matches the glob `pattern`. Raises `UserError` when the
    folder has no such checkpoint. It also raises it for a best checkpoint, as that would lose the
    later epochs, unless --overwrite or another --checkpoint_path is given.
    """
    place = checkpoint_path if start.resume is True else start.resume
    is_best = place.name.endswith(BEST_SUFFIX)
    if is_best and not start.overwrite and "checkpoint_path" not in start.given:
        raise UserError(
            f"{place}: found a best checkpoint, expected a last one, "
            "or --overwrite to lose what came after the best"
        )
    if not place.is_dir():
        return place
    other_suffixes = (BEST_SUFFIX, NOT_FINITE_SUFFIX)
    found = [
        path for path in place.glob(f"{pattern}.pth") if not path.name.endswith(other_suffixes)
    ]
    if not found:
        raise UserError(
            f"{place}: found no {pattern}.pth, expected the last checkpoint of a run to go on with"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def require_resumable(content: dict[str, Any], processes: int, more: Iterable[str] = ()) -> None:
    """Check that a checkpoint's content can be resumed by so many `processes`.

    `more` names entries that it needs besides RESUME_KEYS. Raises `UserError`, without the path,
    when an entry is missing or the run had another number of processes.
    """
    missing = [key for key in (*RESUME_KEYS, *more) if key not in content]
    if missing:
        raise UserError(
            f"found no {missing[0]}, expected a checkpoint of a training that can be resumed"
        )
    if content["processes"] != processes:
        raise UserError(
            f"found a run of {content['processes']} processes (NPROC), "
            f"expected as many as now: {processes}"
        )


def resumed_values(
    values: dict[str, Any],
    start: Start,
    content: dict[str, Any],
    folder: Path,
    tool_values: dict[str, Any],
    free: frozenset[str],
) -> dict[str, Any]:
    """The settings of a resumed run: those of its checkpoint, changed as the command line allows.

    `values` are the command line's settings. `tool_values` are settings that a tool reads from the
    checkpoint's content by itself. `free` names settings that may change besides FREE_ON_RESUME.
    Raises `UserError`, without the path, when the command line changes another one, or asks for
    fewer epochs than the run has already begun.
    """
    kept = {name: content[name] for name in values if name in content and name != "gpu_id"}
    kept |= {"checkpoint_path": folder} | tool_values
    for name in (name for name in values if name in start.given):
        found, given = as_plain(kept.get(name)), as_plain(values[name])
        if name not in FREE_ON_RESUME | free and name in kept and found != given:
            raise UserError(
                f"found a run of --{name} {found}, expected {given}: "
                "a resumed run keeps its settings"
            )
        kept[name] = values[name]
    done = len(content["history"]) + bool(content["step"])
    if kept["epochs"] < done:
        raise UserError(
            f"found a run in its epoch {done}, expected no more than --epochs {kept['epochs']}"
        )
    return values | kept


def describe_resumption(resumed: Path, content: dict[str, Any], epochs: int) -> str:
    """A line on the checkpoint that a run continues from, and on a changed number of `epochs`."""
    text = (
        f"going on from {resumed}: {content['epoch']} of {content['epochs']} epochs "
        f"and {content['step']} steps done"
    )
    if epochs != content["epochs"]:
        text += f"; now of {epochs} epochs, which gamma and learning rate follow from here on"
    return text
