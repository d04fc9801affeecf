"""What each epoch of a run makes of given pictures, as a table.

    python -m autoencoder.trainer --training_dataset_path dataset/textures --keep_epochs 5
    python -m autoencoder.epochs checkpoints/autoencoder/RUN.pth dataset/textures/brick/test

RUN is a checkpoint of a run that kept the weights of its epochs (--keep_epochs), or the folder of
those. For each picture and epoch the table has the loss, here of the picture as it is: a
reconstruction's mean squared error, or the mean probability of damage; and the mean absolute
difference of the encoder's features of picture and output, which is empty for --task segment. The
last lines compare good pictures with defective ones.
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from arguments import add_img_format, whole_number
from autoencoder.model import Model, load_model
from autoencoder.task import EPOCHS_SUFFIX
from autoencoder.validation import pad_to_multiple
from common.command_parser import command_parser
from common.device import choose_device
from common.errors import UserError, prefix_errors, run_command
from data.folder import is_good
from data.image_files import Channels, to_unit_range
from data.pictures import list_pictures, read_picture
from evaluation.metrics import image_figures
from reporting.tables import write_table
from training.checkpoint import name_of_run

HEADER = ("picture", "kind", "epoch", "loss", "feature_difference")
Row = tuple[str, str, int, float, float | None]


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line (None: that of the process)."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="a run's checkpoint, or the folder of its epochs"
    )
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGES", help="pictures, or folders of them"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument(
        "--gpu_id", type=whole_number(-1), help="-1: CPU; default: the first GPU, else the CPU"
    )
    add_img_format(parser, default=None)
    return parser.parse_args(arguments)


def tabulate(arguments: argparse.Namespace) -> list[Row]:
    """A row for each picture and epoch, in their order.

    Raises `UserError` for a run without kept epochs, and for a picture that cannot be read.
    """
    device = choose_device(arguments.gpu_id)
    models = [load_model(path) for path in kept_epochs(arguments.run)]
    channels = Channels.GREY if models[0].channels == 1 else Channels.COLOUR
    pictures = [
        picture
        for place in arguments.images
        for picture in list_pictures(place, arguments.img_format, False, channels)
    ]
    rows = []
    for picture in pictures:
        pixels, _ = read_picture(picture, models[0].input_max)
        for model in models:
            with prefix_errors(picture.path):
                figures = measure(model, pixels, device)
            rows.append((picture.relative.as_posix(), picture.kind or "", model.epoch, *figures))
    return rows


def kept_epochs(run: Path) -> list[Path]:
    """The checkpoints of a run's kept epochs, in their order. Raises `UserError` without any."""
    folder = run
    if not run.is_dir():
        folder = run.with_name(name_of_run(run.name) + EPOCHS_SUFFIX)
    found = sorted(folder.glob("epoch_*.pth"))
    if not found:
        raise UserError(
            f"{folder}: found no epoch_*.pth, expected the epochs of a run with --keep_epochs"
        )
    return found


@torch.inference_mode()
def measure(model: Model, pixels: np.ndarray, device: torch.device) -> tuple[float, float | None]:
    """The loss and the feature difference of a picture (C, H, W), grey levels 0-255."""
    network = model.network.to(device)
    picture = torch.from_numpy(to_unit_range(pixels))[None].to(device)
    padded = pad_to_multiple(picture, network.multiple)
    height, width = pixels.shape[1:]
    output = network(padded)
    if model.task == "segment":
        return float(output[:, :, :height, :width].sigmoid().mean()), None
    levels = zip(network.encode(padded), network.encode(output))
    difference = [float((found - wanted).abs().mean()) for found, wanted in levels]
    loss = (output[:, :, :height, :width] - picture).square().mean()
    return float(loss), float(np.mean(difference))


def describe(rows: list[Row]) -> str:
    """The table as text, and for each epoch the AUROC of both columns where kinds are known."""
    lines = [f"{'epoch':>5}  {'loss':>10}  {'features':>10}  picture"]
    for name, _, epoch, loss, difference in rows:
        lines.append(f"{epoch:5}  {loss:10.3e}  {_number(difference)}  {name}")
    for epoch in sorted({row[2] for row in rows}):
        of_epoch = [row for row in rows if row[2] == epoch and row[1]]
        labels = [not is_good(row[1]) for row in of_epoch]
        for column, what in ((3, "loss"), (4, "features")):
            if of_epoch and of_epoch[0][column] is not None:
                auroc = image_figures(labels, [row[column] for row in of_epoch])["image_auroc"]
                if auroc is not None:
                    lines.append(f"epoch {epoch}: AUROC by {what} {auroc:.3f}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return f"{'':10}" if value is None else f"{value:10.3e}"


def main() -> int:
    """Print the table and return the exit code."""
    arguments = parse_args()
    rows = tabulate(arguments)
    print(describe(rows))
    if arguments.csv:
        write_table(arguments.csv, HEADER, rows)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
