"""Selection: which epoch of a run is its best, and when a run is finished."""

from dataclasses import dataclass
from typing import Any

from training.schedules import is_eligible

VALID = "valid_"  # prefix of the validation metrics in a run's history

History = list[dict[str, Any]]  # one entry per finished epoch


@dataclass(frozen=True)
class Selection:
    """The rule by which a run keeps its best epoch and ends.

    `metric` is the entry of the history that is highest in the best epoch, or lowest where
    `lowest_is_best`; None without validation. It is measured on `held_out`, as a user reads it. The
    run ends early after `patience` epochs without a better one; None: never.
    """

    metric: str | None
    epochs: int
    lr_schedule: str
    patience: int | None = None
    lowest_is_best: bool = False
    held_out: str = "the validation strips"

    def is_eligible(self, epoch: int) -> bool:
        """Whether the weights after an epoch, counted from 1, may become the run's best."""
        return is_eligible(epoch, self.epochs, self.lr_schedule)

    def best_epoch(self, history: History) -> int:
        """The epoch, counted from 1, with the best metric so far.

        Once an epoch is eligible, only eligible ones count. Without a metric it is the last epoch.
        """
        measured = [
            entry for entry in history if self.metric and entry.get(self.metric) is not None
        ]
        sign = -1 if self.lowest_is_best else 1
        best = max(
            measured,
            key=lambda entry: (_was_eligible(entry), sign * entry[self.metric]),
            default=None,
        )
        return best["epoch"] if best else len(history)

    def is_finished(self, history: History) -> bool:
        """Whether all epochs are done, or patience has run out.

        Patience counts only once the best epoch is eligible.
        """
        if len(history) >= self.epochs:
            return True
        if self.patience is None or not history:
            return False
        best_epoch = self.best_epoch(history)
        return _was_eligible(history[best_epoch - 1]) and len(history) - best_epoch >= self.patience

    def describe(self) -> str:
        """A phrase that says how the best checkpoint is chosen."""
        if self.metric is None:
            return "the last epoch is the best"
        among = "" if self.is_eligible(1) else ", of the last quarter of the epochs"
        return f"best checkpoint by {readable(self.metric)} on {self.held_out}{among}"


def _was_eligible(entry: dict[str, Any]) -> bool:
    """Whether the epoch was eligible when it ended.

    The history stores this, so a run that is resumed with other --epochs keeps its best checkpoint.
    """
    # older runs lack the entry: in them every epoch was eligible
    return entry.get("settled", True)


def readable(name: str) -> str:
    """A metric's name in the history as words, without the prefix VALID."""
    return name.removeprefix(VALID).replace("_", " ")
