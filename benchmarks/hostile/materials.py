"""The whole files that are damaged: strips, a run that can be resumed, and its ONNX file."""

from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import numpy as np
import tifffile

import trainer
from common.distributed import SINGLE_PROCESS
from data.demo_strips import make_strip
from evaluation.thresholds import calibrate
from training.checkpoint import load_checkpoint, save_checkpoint
from training.loop import Training
from training.strip_task import StripTask

SIZE = (130, 132)  # (height, width) of a strip
LAYOUTS = {
    "planes": {"planarconfig": "separate"},
    "zlib": {"compression": "zlib", "predictor": 2},
    "lzw tiles": {"compression": "lzw", "tile": (64, 64)},
    "big endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "OME": {"ome": True, "metadata": {"axes": "CYX"}},
    "ImageJ": {"imagej": True, "metadata": {"axes": "CYX"}},
}


class Materials:
    """Folders of good strips and of one, a strip in each layout, a checkpoint, an ONNX file."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.strips = folder / "data" / "train" / "good"
        self.one_strip = folder / "one"
        self.checkpoint = folder / "run.pth"
        self.model = folder / "model.onnx"

    @cached_property
    def tiffs(self) -> list[bytes]:
        """The content of a strip in each of LAYOUTS."""
        return [(self.folder / f"{name}.tiff").read_bytes() for name in LAYOUTS]

    def make(self) -> None:
        """Write everything into the new folder."""
        # imported here: ONNX Runtime's threads would not survive the forks of the other process
        from export_onnx_fullimage import export, parse_args

        generator = np.random.default_rng(0)
        self.strips.mkdir(parents=True)
        for number in range(3):
            strip = make_strip(generator, SIZE)
            tifffile.imwrite(self.strips / f"{number}.tiff", strip, photometric="minisblack")
        self.one_strip.mkdir()
        tifffile.imwrite(self.one_strip / "0.tiff", strip, photometric="minisblack")
        for name, options in LAYOUTS.items():
            pixels = strip.astype(np.uint16 if name in ("zlib", "ImageJ") else np.float32)
            plain = {} if {"ome", "imagej"} & options.keys() else {"photometric": "minisblack"}
            tifffile.imwrite(self.folder / f"{name}.tiff", pixels, **plain, **options)
        words = ["--training_dataset_path", self.strips, "--checkpoint_path", self.folder / "run"]
        words += ["--gpu_id", -1, "--bs", 4, "--epochs", 1, "--base_channels", 4]
        trained = take_one_step([str(word) for word in words])
        calibration = calibrate([np.array([0.9 - 0.02 * number]) for number in range(40)])
        save_checkpoint(self.checkpoint, load_checkpoint(trained) | {"calibration": calibration})
        words = ["--checkpoint_path", self.checkpoint, "--output_path", self.model]
        words += ["--opset_version", 17]
        export(parse_args([str(word) for word in words]))


def take_one_step(words: list[str]) -> Path:
    """Take one step of a training with these flags; returns the checkpoint that it leaves."""
    with ExitStack() as resources:
        run = trainer.prepare(trainer.parse_args(words), SINGLE_PROCESS, resources)
        task = StripTask(run.settings, run.dataset, SINGLE_PROCESS.device)
        training = Training(task, run.settings, SINGLE_PROCESS, run.folder, None)
        training.take_step(next(training.loader.steps(0, 0)))
        training.finish_epoch({})
    return run.folder.last
