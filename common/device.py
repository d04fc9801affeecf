"""The device that a process computes on, and in which precision."""

from contextlib import AbstractContextManager

import torch

from common.errors import UserError


def choose_device(gpu_id: int | None) -> torch.device:
    """Return the CPU for -1, the GPU of that number otherwise.

    None means the first GPU, or the CPU if there is no GPU. Raises `UserError` if the GPU does not
    exist.
    """
    if gpu_id is None:
        gpu_id = 0 if torch.cuda.is_available() else -1
    if gpu_id == -1:
        return torch.device("cpu")
    if not 0 <= gpu_id < torch.cuda.device_count():
        raise UserError(
            f"--gpu_id {gpu_id}: found {torch.cuda.device_count()} CUDA devices, "
            "expected that one (-1 is the CPU)"
        )
    return torch.device("cuda", gpu_id)


def full_precision() -> AbstractContextManager[None]:
    """Run convolutions on a GPU without TF32, which would change heatmaps by about 1e-3."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
