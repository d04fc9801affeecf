"""What export_onnx_fullimage.py exports: a trained detector or a classical one, and its facts."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from arguments import newest, require_input_max
from common.errors import UserError
from data.ignored_regions import IgnoredRegions
from data.image_files import DEFAULT_INPUT_MAX, load_image
from data.listing import list_images
from deploy.export_module import CONTRASTS, UINT8_MAX
from evaluation.detector import Detector, calibrated, classical
from evaluation.model_info import ModelInfo
from evaluation.predictors import DetectorPredictor
from model import SegmentationNetworkONNXFullImage
from ops.detector import AligningDetector
from training.checkpoint import BEST_SUFFIX, build_network, load_checkpoint, model_info

CPU = torch.device("cpu")
ALIGNED = "one trained with --align"  # a detector


@dataclass(frozen=True)
class Source:
    """A detector to export for strips of `info.image_size`, and its facts.

    `checkpoint` is None for a classical detector.
    """

    detector: AligningDetector
    info: ModelInfo
    checkpoint: Path | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.info.image_size

    @property
    def name(self) -> str:
        """The name of the exported file, without suffix."""
        return self.checkpoint.stem if self.checkpoint else type(self.detector).__name__


def load_trained(arguments: argparse.Namespace) -> Source:
    """Load the detector of --checkpoint_path, with a new threshold where --good_path is given.

    Raises `UserError` for an unusable checkpoint or unusable good strips.
    """
    path = newest(arguments.checkpoint_path, f"*{BEST_SUFFIX}")
    content = load_checkpoint(path)
    info = model_info(content)
    require_input_max(arguments.input_max, info, path)
    if arguments.mode == "points" and info.align == "none":
        raise UserError(f"--mode points: found {path}, which aligns nothing, expected {ALIGNED}")
    if arguments.image_size:
        info = replace(info, image_size=tuple(arguments.image_size))
    detector = SegmentationNetworkONNXFullImage(
        build_network(content, path),
        info.image_size,
        info.patch,
        info.align,
        arguments.mode,
        info.weighting,
        arguments.places,
    )
    detector.ignores_missing = arguments.missing == "ignore"
    if arguments.good_path:
        scorer = Detector(str(path), DetectorPredictor(detector, CPU), info, CPU)
        info = calibrated(scorer, arguments.good_path, None, IgnoredRegions()).info
    return Source(detector, info, path)


def make_classical(arguments: argparse.Namespace) -> Source:
    """Make the classical detector of --method.

    Its threshold is set on the good strips of --good_path, or else as for scoring --test_path. The
    image size is that of --image_size, or else of the first strip.

    Raises `UserError` when no flag gives the image size, or the strips cannot be used.
    """
    input_max, needs_threshold = arguments.input_max or DEFAULT_INPUT_MAX, not arguments.good_path
    scorer = classical(
        arguments.method,
        arguments.test_path,
        None,
        input_max,
        CPU,
        needs_threshold,
        ignores_missing=arguments.missing == "ignore",
    )
    if arguments.good_path:
        scorer = calibrated(scorer, arguments.good_path, None, IgnoredRegions())
    size = arguments.image_size
    if size is None:
        folder = arguments.test_path or arguments.good_path
        if folder is None:
            raise UserError(
                f"--method {arguments.method}: found no --image_size, --test_path or --good_path, "
                "expected one of them"
            )
        size = load_image(list_images(folder)[0], input_max).shape[1:]
    return Source(scorer.predictor.detector, replace(scorer.info, image_size=tuple(size)))


def check_flags(arguments: argparse.Namespace, source: Source) -> None:
    """Raise `UserError` for flags that the detector cannot fulfil together."""
    if arguments.input == "uint8" and source.info.input_max != UINT8_MAX:
        raise UserError(
            f"--input uint8: found a camera up to {source.info.input_max:g}, "
            f"expected one up to {UINT8_MAX:g}"
        )
    if arguments.precision != "fp32" and arguments.method != "net":
        raise UserError(
            f"--precision {arguments.precision}: found --method {arguments.method}, "
            "expected a network"
        )
    if "alignment" in arguments.outputs and source.detector.align == "none":
        raise UserError(
            f"--outputs alignment: found a detector that aligns nothing, expected {ALIGNED}"
        )
    contrasts = [output for output in arguments.outputs if output in CONTRASTS]
    if contrasts and not source.info.noise:
        raise UserError(
            f"--outputs {contrasts[0]}: found nothing on the contrast of points that the detector "
            "finds, expected one that registers references, and --good_path FOLDER of good strips"
        )
    if (
        "detections" in arguments.outputs
        and arguments.method != "net"
        and not source.info.calibration
    ):
        raise UserError(
            f"--outputs detections: found no threshold for --method {arguments.method}, "
            "expected --good_path FOLDER"
        )
