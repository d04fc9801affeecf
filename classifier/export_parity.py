"""The proof that an exported classifier computes what PyTorch computes.

Both run on the CPU, on images, on noise and on black, with one image and with a batch.
"""

from pathlib import Path

import numpy as np
import torch

from classifier.defect_graph import DefectGraph
from classifier.onnx_classifier import to_input
from common.errors import UserError
from deploy.parity import BATCHES, PARITY, PARITY_SEED, PARITY_TOLERANCE
from deploy.session import open_session
from gaussian import MAX_GREY


def prove_classifier_parity(
    graph: DefectGraph,
    path: Path,
    images: np.ndarray | None,
    shape: tuple[int, int, int],
    input_max: float,
) -> dict[str, str]:
    """Compare ONNX Runtime with PyTorch on the CPU; return the report's lines.

    `images` are max(BATCHES) images (B, *shape) in grey levels 0-255, None without any; noise and
    black ones are added. `shape` is (C, H, W). All outputs must match within PARITY_TOLERANCE.
    Raises `UserError` when one differs.
    """
    session, differences = open_session(path), {}
    noise = np.random.default_rng(PARITY_SEED).random((max(BATCHES), *shape), dtype=np.float32)
    inputs = {"noise": noise * np.float32(MAX_GREY), "black": np.zeros_like(noise)}
    if images is not None:
        inputs = {"images": images} | inputs
    for name, batches in inputs.items():
        given = to_input(batches, graph.input_kind, input_max)
        for batch in BATCHES:
            found = session.run(list(graph.outputs), {"input": given[:batch]})
            with torch.inference_mode():
                expected = graph(torch.from_numpy(given[:batch]))
            for output, one, other in zip(graph.outputs, found, expected):
                if one.shape != tuple(other.shape):
                    raise UserError(f"found {output} of {one.shape}, expected {tuple(other.shape)}")
                difference = float(np.abs(one - other.numpy()).max())
                differences[f"{output}, {name}, batch {batch}"] = difference
    worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    # `not all(<=)` instead of `any(>)`, so that NaN fails too
    if not all(value <= PARITY_TOLERANCE for value in differences.values()):
        raise UserError(
            f"outputs differ from PyTorch's by {differences[worst]:.2g} ({worst}), "
            f"expected at most {PARITY_TOLERANCE:g}"
        )
    return {PARITY: ", ".join(f"{value:.1e} ({name})" for name, value in differences.items())}
