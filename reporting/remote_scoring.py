"""A scoring whose strips, model or results lie in object storage."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from arguments import set_remote
from common.errors import UserError
from common.locations import is_remote, to_url, written_place
from common.mirror import mirror
from data.remote_folder import local_view
from data.unlabelled import SampledFolder

# by flag: whether the masks beside a folder belong to it
INPUTS = {
    "model_path": False,
    "test_path": True,
    "good_path": True,
    "points": False,
    "dead_pixels": False,
    "ignore_mask": False,
}

Command = Callable[[argparse.Namespace], int]


def takes_urls(infer: Command) -> Command:
    """A scoring command that also takes URLs, for one that takes local paths.

    Inputs are fetched when they are read. Results are written into a local folder and copied from
    there once all are complete.
    """

    def infer_anywhere(arguments: argparse.Namespace) -> int:
        set_remote(arguments)
        local = with_local_inputs(arguments, INPUTS)
        if arguments.fp_path:
            local.fp_path = [_local_sample(entry) for entry in arguments.fp_path]
        output = arguments.output_dir
        if not isinstance(output, str):
            return infer(local)
        _require_output_elsewhere(output, (arguments.test_path, arguments.good_path))
        local.output_dir = written_place(output)
        code = infer(local)
        mirror(local.output_dir, output)
        print(f"copied to {output}; the manifest, written last, names every object")
        return code

    return infer_anywhere


def with_local_inputs(arguments: argparse.Namespace, inputs: dict[str, bool]) -> argparse.Namespace:
    """The arguments with local paths for those `inputs` that are URLs, as in INPUTS."""
    local = argparse.Namespace(**vars(arguments))
    for name, is_data_set in inputs.items():
        if isinstance(given := getattr(arguments, name), str):
            setattr(local, name, local_view(given, is_data_set=is_data_set))
    return local


def _local_sample(entry: SampledFolder) -> SampledFolder:
    if not is_remote(entry.folder):
        return entry
    return replace(entry, folder=local_view(to_url(entry.folder), is_data_set=False))


def _require_output_elsewhere(output: str, inputs: tuple[Path | str | None, ...]) -> None:
    """Raise `UserError` where the output lies among the strips that are read."""
    for given in inputs:
        if given is not None and is_remote(given) and f"{output}/".startswith(f"{to_url(given)}/"):
            raise UserError(
                f"{output}: found an output folder among the strips of {given}, "
                "expected one elsewhere"
            )
