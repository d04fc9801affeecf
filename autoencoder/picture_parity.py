"""The proof that an ONNX file of this tool computes what PyTorch computes.

Both run on the CPU, on good, defective, noise and black pictures, with one and with a batch.
"""

from pathlib import Path

import numpy as np
import torch

from autoencoder.picture_graph import OUTPUTS, PictureGraph
from common.errors import UserError
from deploy.onnx_export import THRESHOLD
from deploy.onnx_predictor import to_model_input
from deploy.parity import BATCHES, PARITY, PARITY_SEED, PARITY_TOLERANCE
from deploy.session import open_session
from gaussian import MAX_GREY


def prove_picture_parity(
    graph: PictureGraph,
    path: Path,
    pictures: dict[str, np.ndarray],
    input_max: float,
    thresholds: list[float],
) -> dict[str, str]:
    """Compare ONNX Runtime with PyTorch on the CPU; return the report's lines.

    `pictures` are batches (B, C, H, W) in grey levels 0-255 by what they are, each of max(BATCHES)
    pictures; noise and black ones are added. Heatmaps and scores must match within
    PARITY_TOLERANCE, clusters exactly. Verdicts must follow from the file's own scores, with its
    own thresholds and with others.

    Raises `UserError` when an output differs.
    """
    session, differences, outputs = open_session(path), {}, []
    shape = next(iter(pictures.values())).shape
    noise = np.random.default_rng(PARITY_SEED).random(shape, dtype=np.float32)
    pictures = pictures | {
        "noise": noise * np.float32(MAX_GREY),
        "black": np.zeros(shape, np.float32),
    }
    for name, images in pictures.items():
        inputs = to_model_input(images, graph.input_kind, images.shape[1], input_max)
        for batch in BATCHES:
            found = dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"input": inputs[:batch]})))
            with torch.inference_mode():
                expected = graph.scorer(graph.to_unit_range(torch.from_numpy(inputs[:batch])))
            for output, values in zip(OUTPUTS, expected):
                if output == "cluster":
                    _require_equal(output, name, found[output], values.numpy())
                    continue
                difference = np.abs(found[output] - values.numpy()).max()
                differences[f"{output}, {name}, batch {batch}"] = float(difference)
            outputs.append((name, inputs[:batch], found))
    worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    # `not all(<=)` instead of `any(>)`, so that NaN fails too
    if not all(value <= PARITY_TOLERANCE for value in differences.values()):
        raise UserError(
            f"outputs differ from PyTorch's by {differences[worst]:.2g} ({worst}), "
            f"expected at most {PARITY_TOLERANCE:g}"
        )
    for name, inputs, found in outputs:
        _check_verdicts(session, inputs, found, thresholds, name)
    heatmaps = [found["heatmap"] for _, _, found in outputs]
    return {
        "heatmaps": f"from {min(map(np.min, heatmaps)):.3g} to {max(map(np.max, heatmaps)):.3g}",
        PARITY: ", ".join(f"{value:.1e} ({name})" for name, value in differences.items()),
    }


def _check_verdicts(
    session, inputs: np.ndarray, found: dict[str, np.ndarray], thresholds: list[float], name: str
) -> None:
    """Raise `UserError` unless verdicts follow from scores, at default and at given thresholds."""
    own = np.array(thresholds, np.float32)
    _require_equal("verdict", name, found["verdict"], found["score"] > own[found["cluster"]])
    for given in (np.zeros_like(own), np.ones_like(own)):
        verdict, score = session.run(["verdict", "score"], {"input": inputs, THRESHOLD: given})
        _require_equal("verdict", name, verdict, score > given[found["cluster"]])


def _require_equal(output: str, name: str, found: np.ndarray, expected: np.ndarray) -> None:
    if not np.array_equal(found, expected):
        raise UserError(
            f"found the outputs {output} {found.tolist()} on {name}, expected {expected.tolist()}"
        )
