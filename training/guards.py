"""Failures that end a training, with error texts that say what to change; and its algorithms."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from common.errors import UserError, one_line
from training.settings import LoopSettings

# fragments of torch's error texts
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    # cuDNN, when it tries all algorithms and none has room
    "FIND was unable to find an engine",
)
LOST_WORKER = ("exited unexpectedly", "is killed by signal")
COMPILERS = ("torch._inductor", "torch._dynamo")  # modules whose errors mean that --compile failed


@contextmanager
def explained_failures(batch_size: int) -> Iterator[None]:
    """Turn known errors of torch into a `UserError`.

    These are: memory runs out, a loader process is killed, --compile fails. Other errors pass
    unchanged.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
            raise UserError(
                f"out of memory with --bs {batch_size}: expected a smaller one "
                "(--accumulate keeps the batch of a step as large), "
                f"fewer --base_channels, or --amp on a GPU ({_shortage(error)})"
            ) from None
        if any(words in text for words in LOST_WORKER):
            raise UserError(
                f"a loader process ended ({one_line(error, 120)}): "
                "expected more memory or fewer --num_workers; --resume goes on"
            ) from None
        if type(error).__module__.startswith(COMPILERS):
            reason = next(line for line in text.splitlines() if line.strip())
            raise UserError(
                f"--compile: the network cannot be compiled here ({reason}), "
                "expected a C++ compiler"
            ) from None
        raise


def _shortage(error: Exception) -> str:
    """Return the part of an error text that says how much memory is missing.

    On a GPU, advice on the settings of torch's allocator follows that part.
    """
    text, end, _ = " ".join(str(error).split()).partition(" is free.")
    return text + end if end else one_line(error, 120)


def choose_algorithms(settings: LoopSettings) -> None:
    """Let cuDNN pick the fastest algorithms, or with --deterministic only reproducible ones."""
    torch.backends.cudnn.benchmark = not settings.deterministic
    if settings.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(settings.deterministic)  # imports for two seconds
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS requires it


def is_finite(network: nn.Module) -> bool:
    """Whether all weights and batch norm statistics of a network are finite."""
    return bool(
        torch.stack([tensor.isfinite().all() for tensor in network.state_dict().values()]).all()
    )
