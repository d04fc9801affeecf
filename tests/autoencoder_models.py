"""Small real parts of the reference-free detector: pictures on disk and checkpoints."""

from pathlib import Path

import cv2
import numpy as np
import torch

from autoencoder.model import TOOL, make_network
from autoencoder.pictures import HELD_OUT_SEED
from data.image_files import encode_image
from data.pictures import list_good_pictures, picture_hash, split_good
from training.checkpoint import save_checkpoint

SIZE = (32, 40)  # (height, width) of the pictures
INPUT_SIZE = 16


def draw_picture(
    seed: tuple[int, ...],
    channels: int = 1,
    size: tuple[int, int] = SIZE,
    brightness: float = 0.0,
) -> np.ndarray:
    """A smooth good picture (H, W, channels) uint8, and brighter at the bottom by `brightness`."""
    noise = np.random.default_rng(seed).normal(128, 60, (*size, channels)).astype(np.float32)
    noise += np.linspace(-brightness / 2, brightness / 2, size[0])[:, None, None]
    blurred = cv2.GaussianBlur(noise, None, 1.5).reshape(*size, channels)
    return np.clip(blurred, 0, 255).astype(np.uint8)


def write_picture(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(path, pixels))
    return path


def write_kind(
    root: Path,
    seed: int = 0,
    channels: int = 1,
    train: int = 12,
    test: int = 3,
    brightness: float = 0.0,
) -> Path:
    """One kind of object in the layout of MVTec AD, with a bright square as its defect."""
    for number in range(train):
        picture = draw_picture((seed, 1, number), channels, brightness=brightness)
        write_picture(root / "train/good" / f"{number}.png", picture)
    for number in range(test):
        picture = draw_picture((seed, 2, number), channels, brightness=brightness)
        write_picture(root / "test/good" / f"{number}.png", picture)
        mask = np.zeros(SIZE, np.uint8)
        mask[8:14, 6 + 4 * number : 12 + 4 * number] = 255
        picture[mask > 0] = 255
        write_picture(root / "test/亮斑" / f"{number}.png", picture)
        write_picture(root / "ground_truth/亮斑" / f"{number}_mask.png", mask)
    return root


def write_checkpoint(
    path: Path, root: Path, task: str = "reconstruct", channels: int = 1, seed: int = 0, **facts
) -> Path:
    """A checkpoint of an untrained network, as a training on the data set in `root` writes it."""
    pictures = list_good_pictures(root)
    train, valid = split_good(pictures, 0.4, HELD_OUT_SEED)
    content = {
        "tool": TOOL,
        "task": task,
        "channels": channels,
        "input_size": INPUT_SIZE,
        "input_max": 255.0,
        "epoch": 1,
        "depth": 2,
        "base_channels": 2,
        "skips": "all",
        "bottleneck": None,
        "training_dataset_path": str(root),
        "train_pictures": [picture.relative.as_posix() for picture in train],
        "valid_pictures": [picture.relative.as_posix() for picture in valid],
        "picture_hashes": {
            picture.relative.as_posix(): picture_hash(picture.path) for picture in pictures
        },
    } | facts
    torch.manual_seed(seed)
    content["model_state_dict"] = make_network(content)().state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, content)
    return path
