"""The epoch picture: the same pictures after each epoch, so that a collapse shows.

Each row is a picture: good ones, painted ones and real defective ones. First comes the original,
then for each epoch the network's output and its error. Each epoch's column is a file, so a resumed
run goes on with its own.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from autoencoder.validation import HeldOut, pad_to_multiple
from data.image_files import to_unit_range
from gaussian import MAX_GREY
from reporting.pictures import heat, save_png

ROWS_PER_KIND = 3
MOST_COLUMNS = 10  # epochs in the picture
CELL = 128  # pixels: longer side of a picture
GAP, CAPTION = 4, 20
BACKDROP, TEXT = 32, (230, 230, 230)
ERROR_SHOWN = 0.25  # of the grey range: an error that is drawn brightest
ORIGINAL = "original.png"


@torch.inference_mode()
def draw_column(
    network: nn.Module, held_out: HeldOut, task: str, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The column of originals and that of outputs and errors: pictures (H, w, 3) uint8, BGR."""
    network.eval()
    originals, answers = [], []
    for field in held_out.shown(ROWS_PER_KIND):
        picture = torch.from_numpy(to_unit_range(field))[None].to(device)
        height, width = field.shape[1:]
        output = network(pad_to_multiple(picture, network.multiple))[:, :, :height, :width]
        output = output[0].float().cpu().numpy()
        if task == "segment":
            shown = error = 1 / (1 + np.exp(-output))
        else:
            shown = np.clip(output, 0, 1)
            error = np.abs(shown - to_unit_range(field)) / ERROR_SHOWN
        originals.append(_cell(field))
        answers.append(np.hstack([_cell(shown * MAX_GREY), _fit(heat(error.mean(axis=0)))]))
    return np.vstack(originals), np.vstack(answers)


def draw_samples(samples: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Training samples, the inputs above the targets: a picture (H, W, 3) uint8, BGR."""
    rows = [
        np.hstack([_cell(sample[name] * MAX_GREY) for sample in samples])
        for name in ("input", "target")
    ]
    return np.vstack(rows)


def write_epoch_picture(
    folder: Path, path: Path, epoch: int, columns: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Keep an epoch's columns in `folder`, and write and return the picture of all epochs."""
    original, answers = columns
    save_png(folder / ORIGINAL, original)
    save_png(folder / f"epoch_{epoch:04}.png", answers)
    found = sorted(folder.glob("epoch_*.png"))
    found = [place for place in found if int(place.stem.removeprefix("epoch_")) <= epoch]
    chosen = np.unique(np.linspace(0, len(found) - 1, MOST_COLUMNS).round().astype(int))
    drawn = [_captioned(original, "original")]
    for place in (found[number] for number in chosen):
        column = cv2.imdecode(np.frombuffer(place.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        if column is not None and len(column) == len(original):
            drawn.append(_captioned(column, f"epoch {int(place.stem.removeprefix('epoch_'))}"))
    picture = np.hstack(drawn)
    save_png(path, picture)
    return picture


def _cell(field: np.ndarray) -> np.ndarray:
    """A picture (C, h, w) of grey levels in a square of CELL pixels (CELL, CELL, 3), BGR."""
    picture = np.clip(field, 0, MAX_GREY).astype(np.uint8)
    picture = np.moveaxis(picture[::-1] if len(picture) == 3 else np.repeat(picture, 3, 0), 0, 2)
    return _fit(picture)


def _fit(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    factor = CELL / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)
    cell = np.full((CELL + GAP, CELL + GAP, 3), BACKDROP, np.uint8)
    cell[: size[1], : size[0]] = small
    return cell


def _captioned(column: np.ndarray, text: str) -> np.ndarray:
    top = np.full((CAPTION, column.shape[1], 3), BACKDROP, np.uint8)
    cv2.putText(top, text, (2, CAPTION - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, TEXT, 1, cv2.LINE_AA)
    return np.vstack([top, column])
