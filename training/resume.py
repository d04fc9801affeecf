"""What --resume means: which checkpoint a run goes on from, and which settings it goes on with."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.errors import UserError
from training.checkpoint import BEST_SUFFIX
from training.run_folder import NOT_FINITE_SUFFIX
from training.settings import Start, as_plain

RESUME_KEYS = ("optimizer_state_dict", "history", "step", "loss_sum", "loss_count", "processes")
# Settings that a resumed run may be given anew. Every other one is part of what the run is, and
# stays as it was.
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
    """The checkpoint that --resume means: that file, or the newest last checkpoint in a folder
    whose name fits `pattern`.

    Raises `UserError` when a folder has none, and for a best checkpoint, unless what came after it
    may be lost.
    """
    place = checkpoint_path if start.resume is True else start.resume
    is_best = place.name.endswith(BEST_SUFFIX)
    if is_best and not start.overwrite and "checkpoint_path" not in start.given:
        raise UserError(
            f"{place}: found a best checkpoint, expected a last one, or --overwrite to lose what came after the best"
        )
    if not place.is_dir():
        return place
    others = (BEST_SUFFIX, NOT_FINITE_SUFFIX)
    found = [path for path in place.glob(f"{pattern}.pth") if not path.name.endswith(others)]
    if not found:
        raise UserError(
            f"{place}: found no {pattern}.pth, expected the last checkpoint of a run to go on with"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def require_resumable(content: dict[str, Any], processes: int, more: Iterable[str] = ()) -> None:
    """Raise `UserError`, without the path, for a checkpoint that lacks an entry, or was written by
    another number of processes.
    """
    missing = [key for key in (*RESUME_KEYS, *more) if key not in content]
    if missing:
        raise UserError(
            f"found no {missing[0]}, expected a checkpoint of a training that can be resumed"
        )
    if content["processes"] != processes:
        raise UserError(
            f"found a run of {content['processes']} processes (NPROC), expected as many as now: {processes}"
        )


def resumed_values(
    values: dict[str, Any],
    start: Start,
    content: dict[str, Any],
    folder: Path,
    own: dict[str, Any],
    free: frozenset[str],
) -> dict[str, Any]:
    """The settings of a run: those of a command line, `values`, as its checkpoint's content has
    them or as they are given anew.

    `own` are settings that a tool reads from the content in its own way, `free` those that may be
    given anew besides FREE_ON_RESUME. Raises `UserError`, without the path, when another one is
    given, or when so few epochs are that the run is beyond them.
    """
    kept = {name: content[name] for name in values if name in content and name != "gpu_id"}
    kept |= {"checkpoint_path": folder} | own
    for name in (name for name in values if name in start.given):
        found, given = as_plain(kept.get(name)), as_plain(values[name])
        if name not in FREE_ON_RESUME | free and name in kept and found != given:
            raise UserError(
                f"found a run of --{name} {found}, expected {given}: a run goes on with the settings that it has"
            )
        kept[name] = values[name]
    done = len(content["history"]) + bool(content["step"])
    if kept["epochs"] < done:
        raise UserError(
            f"found a run in its epoch {done}, expected none after --epochs {kept['epochs']}"
        )
    return values | kept


def describe_resumption(resumed: Path, content: dict[str, Any], epochs: int) -> str:
    text = f"going on from {resumed}: {content['epoch']} of {content['epochs']} epochs and {content['step']} steps done"
    if epochs != content["epochs"]:
        text += f"; now of {epochs} epochs, which gamma and learning rate follow from here on"
    return text
