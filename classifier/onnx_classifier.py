"""An exported classifier as inference takes it, in ONNX Runtime."""

from pathlib import Path

import numpy as np

from classifier.defect_graph import ATTENTION, DISTANCE, MASK, PROBABILITIES
from classifier.loaded_classifier import LoadedClassifier
from classifier.onnx_metadata import COMMAND, ClassifierMetadata, read_classifier_metadata
from common.errors import UserError, prefix_errors
from deploy.export_module import INPUTS
from deploy.onnx_predictor import ONNX_TYPES, to_model_input
from deploy.session import PlacedSession, SessionSettings, place_session, refused_by_runtime
from gaussian import MAX_GREY


def load_onnx_classifier(path: Path, is_on_cpu: bool) -> LoadedClassifier:
    """Load an ONNX file of this tool, which holds its own calibration.

    It runs on the GPU where there is one, unless `is_on_cpu`. Raises `UserError`, naming the file,
    when it is missing, when this tool did not write it, or when the device cannot compute it.
    """
    with prefix_errors(path):
        placed = place_session(path, SessionSettings("cpu" if is_on_cpu else "auto", None))
        metadata = read_classifier_metadata(placed.session.get_modelmeta().custom_metadata_map)
        _require_signature(placed, metadata)

    def predict(images: np.ndarray) -> dict[str, np.ndarray]:
        batch = to_input(images * MAX_GREY, metadata.input_kind, metadata.input_max)
        with prefix_errors(path), refused_by_runtime(len(images)):
            results = placed.session.run(list(metadata.outputs), {"input": batch})
        found = dict(zip(metadata.outputs, results))
        if found[PROBABILITIES].shape != (len(images), len(metadata.kinds)):
            raise UserError(
                f"{path}: found probabilities of {found[PROBABILITIES].shape}, "
                f"expected {(len(images), len(metadata.kinds))}"
            )
        return found

    return LoadedClassifier(
        path.name,
        metadata.kinds,
        metadata.channels,
        metadata.image_size,
        metadata.input_max,
        metadata.stride,
        metadata.calibration,
        predict,
        {
            "file": str(path.absolute()),
            "network": metadata.network,
            "calibrated": "when it was exported" if metadata.calibration else "no",
            "device": placed.device,
        },
    )


def to_input(grey_levels: np.ndarray, input_kind: str, input_max: float) -> np.ndarray:
    """Images (B, C, H, W) in grey levels 0-255 as a file of this tool takes them."""
    return to_model_input(grey_levels, input_kind, 3, input_max)  # 3: it adds no channel


def _require_signature(placed: PlacedSession, metadata: ClassifierMetadata) -> None:
    """Raise `UserError`, without the path, unless inputs and outputs are those of the metadata."""
    session = placed.session
    found = [(node.name, node.type, *node.shape[1:]) for node in session.get_inputs()]
    kind = ONNX_TYPES[INPUTS[metadata.input_kind]]
    is_expected = (
        found == [("input", kind, metadata.channels, *metadata.image_size)]
        and tuple(node.name for node in session.get_outputs()) == metadata.outputs
        and metadata.outputs[0] == PROBABILITIES
        and (MASK in metadata.outputs) == (ATTENTION in metadata.outputs)
        and set(metadata.outputs) <= {PROBABILITIES, MASK, ATTENTION, DISTANCE}
    )
    if not is_expected:
        raise UserError(f"found inputs and outputs {found}, expected a file of {COMMAND}")
