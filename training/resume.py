"""--resume: which checkpoint a run continues from, and with which settings."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import UserError, shown
from training.checkpoint import BEST_SUFFIX
from training.run_folder import NOT_FINITE_SUFFIX, settings_beside
from training.settings import Start, as_plain

# entries of a checkpoint without which a run cannot continue
RESUME_KEYS = ("optimizer_state_dict", "history", "step", "loss_sum", "loss_count", "processes")
# the --resume of a command that a scheduler starts again: go on where there is a run, else begin
AUTO = Path("auto")
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


def find_last_checkpoint(
    start: Start, checkpoint_path: Path, pattern: str, more_suffixes: tuple[str, ...] = ()
) -> Path | None:
    """The checkpoint that --resume names: a file, or the newest last checkpoint in a folder.

    Of AUTO it is the one in `checkpoint_path`, or None where there is none: the run begins.

    In a folder, the name without its suffix matches the glob `pattern`, or is that of any run if
    the command line sets nothing that a run's name says. `more_suffixes` are those of further files
    of a run that the pattern may match. Raises `UserError` when the folder has no such checkpoint.
    It also raises it for a best checkpoint, as that would lose the later epochs, unless --overwrite
    or another --checkpoint_path is given.
    """
    place = checkpoint_path if start.resume in (True, AUTO) else start.resume
    is_best = place.name.endswith(BEST_SUFFIX)
    if is_best and not start.overwrite and "checkpoint_path" not in start.given:
        raise UserError(
            f"{place}: found a best checkpoint, expected a last one, "
            "or --overwrite to lose what came after the best"
        )
    if not place.is_dir():
        return None if start.resume == AUTO else place
    is_any = not start.given & {"name", "lr", "bs", "image_type"}
    named = [path for path in place.glob("*.pth") if is_any and settings_beside(path).is_file()]
    other_suffixes = (BEST_SUFFIX, NOT_FINITE_SUFFIX, *more_suffixes)
    found = [
        path
        for path in {*place.glob(f"{pattern}.pth"), *named}
        if path.is_file() and not path.name.endswith(other_suffixes)
    ]
    if not found and start.resume == AUTO:
        return None
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
    checks = {
        **dict.fromkeys(("step", "loss_count", "processes"), _is_count),
        "loss_sum": lambda value: type(value) in (int, float) and math.isfinite(value),
        "history": _is_history,
        "epoch": _is_count,
    }
    wrong = [key for key, is_usable in checks.items() if not is_usable(content[key])]
    if wrong:
        raise UserError(
            f"found {wrong[0]} {shown(content[wrong[0]])}, expected what a training writes"
        )
    if content["processes"] != processes:
        raise UserError(
            f"found a run of {content['processes']} processes (NPROC), "
            f"expected as many as now: {processes}"
        )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_history(value: object) -> bool:
    """Whether a value is a `History`: epochs from 1 on, with numbers by name."""
    return isinstance(value, list) and all(
        isinstance(entry, dict)
        and all(type(entry.get(name)) in (int, float) for name in ("epoch", "loss", "lr"))
        and entry["epoch"] == number
        and all(
            isinstance(name, str) and isinstance(figure, int | float | None)
            for name, figure in entry.items()
        )
        for number, entry in enumerate(value, start=1)
    )


def require_state_fits(
    content: dict[str, Any], make_network: Callable[[], nn.Module], description: str
) -> None:
    """Check that weights and optimizer state fit the network that the run continues with.

    Raises `UserError`, without the path and with the network's `description`, when they are another
    network's, or damaged.
    """
    with torch.device("meta"):  # shapes alone
        network = make_network()
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found = {name: tensor.shape for name, tensor in content["model_state_dict"].items()}
    if found != expected:
        raise UserError(f"found weights of another network than the run's {description}")
    trained = [tensor for tensor in network.parameters() if tensor.requires_grad]
    if not _is_adam_state(content["optimizer_state_dict"], trained):
        raise UserError("found an optimizer_state_dict that does not fit the network")


def _is_adam_state(value: object, parameters: list[torch.Tensor]) -> bool:
    """Whether a value is what Adam's `state_dict` gives for these parameters."""
    numbers = list(range(len(parameters)))
    if not isinstance(value, dict):
        return False
    try:
        (group,), states = value["param_groups"], value["state"]
        if group["params"] != numbers or list(states) not in ([], numbers):
            return False
        return all(
            states[number][name].shape == parameters[number].shape
            and states[number][name].is_floating_point()
            and states[number]["step"].numel() == 1
            for number in states
            for name in ("exp_avg", "exp_avg_sq")
        )
    except (TypeError, KeyError, ValueError, AttributeError):
        return False


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
