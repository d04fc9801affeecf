"""Which epoch of a run is its best, and when a run is finished."""

from dataclasses import dataclass
from typing import Any

from training.schedules import is_eligible

VALID = "valid_"  # prefix of the validation figures in a run's history

History = list[dict[str, Any]]  # an entry for each epoch that is finished


@dataclass(frozen=True)
class Selection:
    """The rule by which a run keeps its best epoch and ends.

    `metric` is the entry of the history that the best epoch has most of, None where nothing can be
    validated. `patience` is the number of epochs without a better one after which the run ends;
    None: it never ends early.
    """

    metric: str | None
    epochs: int
    lr_schedule: str
    patience: int | None = None

    def is_eligible(self, epoch: int) -> bool:
        """Whether the weights after epoch `epoch`, counted from 1, may be a run's best."""
        return is_eligible(epoch, self.epochs, self.lr_schedule)

    def best_epoch(self, history: History) -> int:
        """The epoch, counted from 1, with the highest figure so far, of those that are eligible as
        soon as one is.

        Where there is no figure, the last one.
        """
        measured = [
            entry for entry in history if self.metric and entry.get(self.metric) is not None
        ]
        best = max(
            measured, key=lambda entry: (_was_eligible(entry), entry[self.metric]), default=None
        )
        return best["epoch"] if best else len(history)

    def is_finished(self, history: History) -> bool:
        """After all epochs, or when patience has run out; it does not begin to before an epoch is
        eligible.
        """
        if len(history) >= self.epochs:
            return True
        if self.patience is None or not history:
            return False
        best_epoch = self.best_epoch(history)
        return _was_eligible(history[best_epoch - 1]) and len(history) - best_epoch >= self.patience

    def describe(self) -> str:
        if self.metric is None:
            return "the last epoch is the best"
        among = "" if self.is_eligible(1) else ", of the last quarter of the epochs"
        return f"best checkpoint by {readable(self.metric)} on the validation strips{among}"


def _was_eligible(entry: dict[str, Any]) -> bool:
    """As it was when the epoch ended: a run that is resumed with other --epochs keeps the best one
    that it has saved.
    """
    return entry.get("settled", True)  # not there in a run begun when any epoch could be


def readable(name: str) -> str:
    return name.removeprefix(VALID).replace("_", " ")
