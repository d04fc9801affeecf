"""What the validation figures of a run say against choosing its best epoch by them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoencoder.validation import PSEUDO, REAL, TRIVIAL

# AUROC from which the pseudo-defects are too easy: that of a trivial score, and that of the network
EASY_TRIVIAL, EASY_PSEUDO = 0.9, 0.99
EPOCHS_AT_LIMIT = 3  # validations for which the network's has to stay there
LEAST_EPOCHS = 5  # validations that a rank correlation needs


def warnings_of(history: list[dict[str, Any]], prefix: str) -> list[str]:
    """What the last epoch of a history says about the validation for the first time.

    `prefix` is that of the validation's figures in the history.
    """
    found = []
    for check in (_too_easy, _in_disorder):
        text = check(history, prefix)
        if text and not check(history[:-1], prefix):
            found.append(text)
    return found


def _too_easy(history: list[dict[str, Any]], prefix: str) -> str | None:
    measured = [entry for entry in history if entry.get(prefix + PSEUDO) is not None]
    if not measured:
        return None
    advice = "too easy to choose by: --choose_by loss, or a smaller --defect_size and contrast"
    trivial = max(measured[-1].get(prefix + name) or 0.0 for name in TRIVIAL)
    if trivial >= EASY_TRIVIAL:
        return (
            f"a score without a network tells {trivial:.2f} (AUROC) of the pseudo-defects from "
            f"good pictures: they are {advice}"
        )
    last = [entry[prefix + PSEUDO] for entry in measured[-EPOCHS_AT_LIMIT:]]
    if len(last) == EPOCHS_AT_LIMIT and min(last) >= EASY_PSEUDO:
        return f"the pseudo AUROC stays at {min(last):.3f}: pseudo-defects are {advice}"
    return None


def _in_disorder(history: list[dict[str, Any]], prefix: str) -> str | None:
    pairs = [
        (entry[prefix + PSEUDO], entry[prefix + REAL])
        for entry in history
        if entry.get(prefix + PSEUDO) is not None and entry.get(prefix + REAL) is not None
    ]
    if len(pairs) < LEAST_EPOCHS or rank_correlation(*zip(*pairs)) >= 0:
        return None
    return (
        "pseudo and real AUROC disagree in order over the epochs (rank correlation "
        f"{rank_correlation(*zip(*pairs)):.2f}): do not choose by pseudo-defects like these"
    )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation of two series, ties at their mean rank; 0 for a constant one."""
    ranks = [_ranks(np.asarray(series, float)) for series in (first, second)]
    if min(np.ptp(rank) for rank in ranks) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(series: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(series, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
