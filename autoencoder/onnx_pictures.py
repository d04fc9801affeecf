"""Score pictures with an exported file of this tool in ONNX Runtime; inference_onnx.py calls it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoencoder.calibration import GoodScores, good_scores
from autoencoder.folder_scoring import FolderScoring, score_taken_in, take_in_pictures
from autoencoder.held_out import default_test_folder, good_pictures_in
from autoencoder.onnx_metadata import COMMAND, PictureMetadata, read_picture_metadata
from autoencoder.picture_graph import OUTPUTS
from common.errors import UserError, prefix_errors
from common.progress import progress_bar
from common.settings import from_values
from data.picture_channels import CHANNELS
from data.pictures import read_picture, verify_pictures
from deploy.export_module import INPUTS
from deploy.onnx_predictor import ONNX_TYPES, to_model_input
from deploy.session import ANY_DEVICE, SessionSettings, place_session, refused_by_runtime
from evaluation.stream import ScoredHeatmap

# Flags of inference_onnx.py that have a meaning for strips alone, with their defaults.
STRIP_FLAGS = {
    "channels": None,
    "image_type": None,
    "method": "net",
    "require_contrast": None,
    "contrast_maps": False,
    "missing": "report",
    "dead_pixels": None,
    "ignore_mask": None,
    "mask_channel": None,
    "points": None,
    "fp_path": None,
    "cuda_graph": False,
}


class PictureOnnxPredictor:
    """Runs a file of this tool, with up to `batch` pictures per call; a `BatchPredictor`.

    `image_size` is the file's (height, width) in pixels. `thresholds` are those of the clusters,
    0-1; by default the file's own.

    Raises `UserError`, naming the file, when it is missing, when this tool did not write it, or
    when the device cannot compute it.
    """

    def __init__(self, path: Path, settings: SessionSettings = ANY_DEVICE):
        with prefix_errors(path):
            self.placed = place_session(path, settings)
            self.session, self.device = self.placed.session, self.placed.device
            self.batch = settings.batch or 1
            self.metadata = read_picture_metadata(self.session.get_modelmeta().custom_metadata_map)
            self.image_size = self._checked_size(self.metadata)
        own = self.metadata.good.thresholds(self.metadata.target)
        self.thresholds = [threshold.value for threshold in own]

    def _checked_size(self, metadata: PictureMetadata) -> tuple[int, int]:
        """The input's (height, width). Raises `UserError` for other inputs and outputs."""
        given = self.session.get_inputs()[0]
        names = tuple(output.name for output in self.session.get_outputs())
        kind = ONNX_TYPES[INPUTS[metadata.input_kind]]
        sizes = given.shape[2:] if len(given.shape) == 4 else []
        if (
            (given.name, given.type, given.shape[1:2]) != ("input", kind, [metadata.channels])
            or not all(isinstance(length, int) for length in sizes)
            or names != OUTPUTS
            or not sizes
        ):
            raise UserError(
                f"found inputs and outputs {given.name, given.type, given.shape, names}, "
                f"expected a file of {COMMAND}"
            )
        return tuple(sizes)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Convert (C, H, W) grey levels 0-255 to one input of the file.

        Raises `UserError` for a picture of another size than the file's.
        """
        if image.shape[1:] != self.image_size:
            raise UserError(
                f"found {image.shape[1:]} (height, width), "
                f"expected the ONNX file's {self.image_size}"
            )
        metadata = self.metadata
        return to_model_input(
            image[None], metadata.input_kind, metadata.channels, metadata.input_max
        )[0]

    def predict(self, prepared: list[np.ndarray]) -> list[ScoredHeatmap]:
        """The heatmaps and scores of prepared pictures; at most `batch`.

        Raises `UserError` when ONNX Runtime cannot compute them.
        """
        return [
            ScoredHeatmap(heatmap[0], float(score), threshold=self.thresholds[int(cluster)])
            for heatmap, score, cluster in self.run(prepared)
        ]

    def run(self, prepared: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Heatmap (1, H, W), score and cluster of each prepared picture. Raises as `predict`."""
        with refused_by_runtime(self.batch):
            found = self.session.run(OUTPUTS[:3], {"input": np.stack(prepared)})
        return list(zip(*found))


def score_with_onnx(path: Path, arguments: argparse.Namespace) -> int:
    """Score the folder that the flags of inference_onnx.py name, with the file at `path`.

    Returns the exit code: 1 when some pictures could not be used, else 0. Raises `UserError` for
    flags that have a meaning for strips alone, when the file or the device cannot be used, and when
    no picture can.
    """
    values = vars(arguments)
    for name, default in STRIP_FLAGS.items():
        if values.get(name, default) != default:
            raise UserError(f"--{name}: found a file for pictures, expected one for strips")
    settings = SessionSettings(arguments.device, arguments.batch, arguments.threads)
    predictor = PictureOnnxPredictor(path, settings)
    metadata = predictor.metadata
    if arguments.input_max not in (None, metadata.input_max):
        raise UserError(
            f"{path}: found a model of --input_max {metadata.input_max:g}, "
            f"expected {arguments.input_max:g}"
        )
    target = arguments.target_false_alarms or metadata.target
    if target >= 1:
        raise UserError(
            f"--target_false_alarms {target:g}: found a file for pictures, expected a share of "
            "good ones between 0 and 1"
        )
    folder = arguments.test_path or default_test_folder(Path(metadata.training_dataset_path))
    print(f"{path} on {predictor.device} ({predictor.placed.why}), pictures of {folder}")
    own = {
        "channels": CHANNELS[metadata.channels],
        "input_max": metadata.input_max,
        "target_false_alarms": target,
    }
    scoring = from_values(FolderScoring, values | own)
    intake = take_in_pictures(folder, scoring)
    good = _scores_of(predictor, scoring) if scoring.good_path else metadata.good

    def with_thresholds(thresholds: list[float], has_panels: bool) -> PictureOnnxPredictor:
        predictor.thresholds = thresholds
        return predictor

    shown = {"device": predictor.device, "maps": metadata.maps}
    return score_taken_in(intake, with_thresholds, str(path), good, scoring, shown)


def _scores_of(predictor: PictureOnnxPredictor, settings: FolderScoring) -> GoodScores:
    """The scores of the good pictures of --good_path, by the file's own statistics.

    Raises `UserError` for a picture that cannot be used.
    """
    folder = settings.good_path
    verification = verify_pictures(
        good_pictures_in(folder, settings.img_format, settings.channels), settings.input_max
    )
    if verification.problems:
        raise UserError(f"--good_path: {verification.problems[0]}")
    found: Sequence = []
    for picture in progress_bar(verification.usable, desc="setting the threshold", unit="picture"):
        with prefix_errors(picture.path):
            prepared = predictor.prepare(read_picture(picture, settings.input_max)[0])
        found += [(float(score), int(cluster)) for _, score, cluster in predictor.run([prepared])]
    scores, clusters = zip(*found)
    return good_scores(predictor.metadata.good.names, scores, clusters, f"set on {folder}")
