"""Train the reference-free detector, build a feature library, and score the test pictures.

    bash autoencoder/train.sh
    bash autoencoder/train.sh --training_dataset_path /data/parts --seeds 1 2 3
    # after an interruption of any of the steps
    bash autoencoder/train.sh --resume

It takes the flags of python -m autoencoder.trainer, which has more on them; all but --per_class.
The network scores beside the library where together they find more damage painted into held-out
pictures than the library alone. The library ({run}_library.pth) lies beside the best checkpoint
({run}_best.pth), the scores and the report in {run}_test/. Where the data set has no test/, nothing
is scored.
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from autoencoder import feature_library, inference, trainer
from autoencoder.choose_network import LEAST_GAIN, painted_auroc
from autoencoder.model import load_model
from autoencoder.pseudo_defects import PseudoDefects
from autoencoder.settings import AutoencoderSettings
from autoencoder.task import LIBRARY_SUFFIX
from common.device import choose_device
from common.errors import UserError, run_command
from common.settings import from_values
from data.folder import split_beside
from data.pictures import group_folders, list_test_pictures
from training.checkpoint import BEST_SUFFIX
from training.run_folder import TEST_SUFFIX


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """As `trainer.parse_args`."""
    return trainer.parse_args(arguments, __doc__)


def train_and_score(arguments: argparse.Namespace) -> int:
    """Do all steps and return the exit code: 1 when some test pictures could not be used, else 0.

    Of several processes, only the main one goes on after the training. Raises `UserError` as the
    commands of the steps.
    """
    if arguments.per_class:
        raise UserError(
            "--per_class: found a model for each class, expected models of all classes: "
            "python -m autoencoder.trainer trains them, python -m autoencoder.inference scores"
        )
    best = trainer.train(arguments)
    if not best:
        return 0
    model = load_model(best[0])
    root, library = model.training_dataset_path, beside(best[0], LIBRARY_SUFFIX)
    pictures = flags(img_format=model.settings["img_format"])
    words = flags(
        training_dataset_path=root,
        input_max=model.input_max,
        valid_share=model.settings["valid_share"],
        output_path=library,
    )
    feature_library.build(feature_library.parse_args([*words, *pictures, "--overwrite"]))
    defects = from_values(AutoencoderSettings, model.settings).defects()
    asked = [*flags(gpu_id=arguments.gpu_id), *pictures]
    detector = choose_detector(best, library, asked, defects)
    if not has_test_pictures(root):
        print(
            f"{root}: found no test/, so nothing is scored; next: python -m autoencoder.inference "
            f"{shlex.join(detector)} --test_path ..."
        )
        return 0
    words = flags(output_dir=beside(best[0], TEST_SUFFIX), gpu_id=arguments.gpu_id)
    code = inference.infer(inference.parse_args([*detector, *words, *pictures]))
    print(f"to export it as one ONNX file: python -m autoencoder.export {shlex.join(detector)}")
    return code


def choose_detector(
    models: Sequence[Path], library: Path, more: Sequence[str], defects: PseudoDefects
) -> list[str]:
    """The words of a command line that name what scores: the library, and models where they help.

    `more` has further words of inference, and `defects` are painted. Prints what was found.
    """
    alone = flags(library=library)
    joined = ["--models", *map(str, models), *alone]
    found = []
    for words in (alone, joined):
        asked = inference.parse_args([*words, *more])
        found.append(painted_auroc(asked, choose_device(asked.gpu_id), defects))
    if None in found:
        return joined
    without, joint = found
    does_join = joint > without + LEAST_GAIN
    print(
        f"AUROC of damage painted into held-out pictures: {without:.3f} by the library, "
        f"{joint:.3f} joined with the network: scored by "
        f"{'both' if does_join else 'the library alone'}"
    )
    return joined if does_join else alone


def beside(best: Path, suffix: str) -> Path:
    """The path of another of the files of the run with this best checkpoint."""
    return best.with_name(best.name.removesuffix(BEST_SUFFIX) + suffix)


def flags(**values: object) -> list[str]:
    """The words of a command line that give flags these values; none for None."""
    given = {name: value for name, value in values.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def has_test_pictures(root: Path) -> bool:
    """Whether the data set in `root`, or the folder beside good pictures, has some to test."""
    if group_folders(root):
        return bool(list_test_pictures(root))
    return split_beside(root, "test") is not None


if __name__ == "__main__":
    sys.exit(run_command(lambda: train_and_score(parse_args())))
