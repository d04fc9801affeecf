"""What a search has found: its trials, its finals, the points, and one recommendation or none."""

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from scale.comparison import Comparison, Estimate, compare, estimate
from scale.finals import DEFAULT, finals_count, ranked_trials
from scale.found_points import FoundPoints, read_found_points
from scale.search_strips import SAMPLE, WHOLE, names_of
from scale.space import command_words
from scale.study import RUNS, SharedStudy, run_name

POINTS_FILE = "points.json"  # of a training: which points it finds
AMOUNTS_FILE = "recommended_recipe_settings.yaml"
MOST_TOGETHER = 3  # settings whose found points are put together
FEWEST_TO_EXPLAIN = 4  # trials from which the importance of parameters can be told


@dataclass(frozen=True)
class ScoredTrial:
    """A trial of the search that was trained to the end, on the sample."""

    number: int
    is_default: bool
    values: dict[str, Any]
    recall: Estimate
    points: FoundPoints


@dataclass(frozen=True)
class Finalist:
    """Settings that were trained on all strips: `runs` has what each seed finds.

    `comparison` is with the default settings; None for these.
    """

    number: int
    values: dict[str, Any]
    runs: list[FoundPoints]
    recalls: list[float]
    recall: Estimate
    comparison: Comparison | None

    @property
    def is_default(self) -> bool:
        """Whether these are the default settings."""
        return self.number == DEFAULT


class SearchResult:
    """The result of a study as far as it has come."""

    def __init__(self, shared: SharedStudy):
        self.shared, self.spec, self.objective = shared, shared.spec, shared.spec.objective
        self.search_trials = shared.search.get_trials(deepcopy=False)
        self.finals_trials = shared.finals.get_trials(deepcopy=False)

    @cached_property
    def trials(self) -> list[ScoredTrial]:
        """The trials that were trained to the end, the best first."""
        found = []
        for trial in ranked_trials(self.shared):
            if points := self._points(self.shared.search, trial):
                attributes = trial.user_attrs
                found.append(
                    ScoredTrial(
                        trial.number,
                        bool(attributes.get("is_default")),
                        _flat(attributes.get("values")),
                        estimate([points], self.objective),
                        points,
                    )
                )
        return found

    @cached_property
    def tied(self) -> set[int]:
        """The trials that may be as good as the best one: the sample cannot tell them apart."""
        tied = set()
        for trial in self.trials:
            comparison = compare([self.trials[0].points], [trial.points], self.objective)
            if comparison.difference.low <= 0:
                tied.add(trial.number)
        return tied

    @property
    def ended_early(self) -> int:
        """The number of trials that were ended before their last epoch."""
        pruned = [trial for trial in self.search_trials if trial.state == TrialState.PRUNED]
        return len(pruned) - len(self.failed)

    @property
    def failed(self) -> dict[str, str]:
        """Why trainings of the search have failed, by their names."""
        return {
            run_name(self.shared.search, trial): trial.user_attrs["problem"]
            for trial in self.search_trials
            if "problem" in trial.user_attrs
        }

    @property
    def is_complete(self) -> bool:
        """Whether all finals have ended."""
        ended = [trial for trial in self.finals_trials if trial.state == TrialState.COMPLETE]
        return bool(ended) and len(ended) >= finals_count(self.shared)

    @cached_property
    def unseen(self) -> np.ndarray | None:
        """Which strips the search has not scored, (strips,) bool; None without a point on them."""
        if not self._default_runs:
            return None
        sampled = set(names_of(self.shared.strips / SAMPLE).values())
        strips = self._default_runs[0].strips
        is_unseen = np.array([strip.name not in sampled for strip in strips])
        has_points = np.array([bool(strip.points) for strip in strips])
        return is_unseen if (is_unseen & has_points).any() else None

    @cached_property
    def _runs(self) -> dict[int, list[tuple[FrozenTrial, FoundPoints]]]:
        """The trainings of the finals that have ended, by setting, in the order of their seeds."""
        runs: dict[int, list[tuple[FrozenTrial, FoundPoints]]] = {}
        by_seed = sorted(self.finals_trials, key=lambda trial: trial.user_attrs["seed"])
        for trial in by_seed:
            is_there = trial.state == TrialState.COMPLETE
            if is_there and (points := self._points(self.shared.finals, trial)):
                runs.setdefault(trial.user_attrs["setting"], []).append((trial, points))
        return runs

    @property
    def _default_runs(self) -> list[FoundPoints]:
        return [points for _, points in self._runs.get(DEFAULT, [])]

    @cached_property
    def finalists(self) -> list[Finalist]:
        """The settings of the finals with their trainings so far, the best first."""
        found = []
        for number, runs in self._runs.items():
            points = [each for _, each in runs]
            is_compared = number != DEFAULT and self._default_runs
            found.append(
                Finalist(
                    number,
                    _flat(runs[0][0].user_attrs["values"]),
                    points,
                    [each.recall(self.objective) for each in points],
                    estimate(points, self.objective),
                    compare(points, self._default_runs, self.objective, self.unseen)
                    if is_compared
                    else None,
                )
            )
        return sorted(found, key=lambda finalist: (-finalist.recall.value, finalist.number))

    @property
    def best(self) -> Finalist | None:
        """The finalist that finds most on all strips, the default settings aside."""
        return next((finalist for finalist in self.finalists if not finalist.is_default), None)

    @property
    def recommended(self) -> Finalist | None:
        """The finalist to use in place of the default settings; None where there is none."""
        best = self.best if self.is_complete else None
        return best if best and best.comparison and best.comparison.is_better else None

    def verdict(self) -> str:
        """The recommendation in a sentence."""
        if not self.is_complete:
            return (
                f"no recommendation yet: {sum(map(len, self._runs.values()))} of the trainings on "
                "all strips have ended"
            )
        if self.best is None:
            return "no better than the default: no other setting was trained to the end"
        comparison = self.best.comparison
        where = (
            "on strips that the search has not seen"
            if self.unseen is not None
            else ("on the strips of the search itself, for it had all of them")
        )
        difference = comparison.difference
        figures = (
            f"trial {self.best.number} finds {difference.value:+.3f} of the points more "
            f"({difference.low:+.3f} to {difference.high:+.3f} at 95 %) {where}; more on "
            f"{comparison.better} of them, fewer on {comparison.worse}"
        )
        if self.recommended:
            return f"recommended: {figures}"
        return f"no better than the default, as far as these strips can tell: {figures}"

    def command(self) -> str | None:
        """The training with the recommended settings; None without a recommendation."""
        if not self.recommended:
            return None
        trial = self.search_trials[self.recommended.number]
        values, space = trial.user_attrs["values"], self.spec.space
        words = ["python", "trainer.py", "--training_dataset_path"]
        words += [str(self.spec.training_dataset_path)]
        words += command_words(space.fixed_flags | values["flags"])
        if self.amounts():
            words += ["--recipe_settings", str(self.shared.folder / AMOUNTS_FILE)]
        return shlex.join(words)

    def amounts(self) -> dict[str, Any]:
        """The amounts of the recommended recipe that differ from the usual ones."""
        if not self.recommended:
            return {}
        values = self.search_trials[self.recommended.number].user_attrs["values"]
        return self.spec.space.fixed_amounts | values["amounts"]

    def importances(self) -> dict[str, float]:
        """How much of the trials' differences each parameter explains; empty for few trials."""
        names = list(self.spec.space.parameters())
        complete = [
            trial for trial in ranked_trials(self.shared) if set(names) <= set(trial.params)
        ]
        if len(complete) < FEWEST_TO_EXPLAIN or len({trial.value for trial in complete}) == 1:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(
            self.shared.search, evaluator=evaluator, params=names
        )

    def cover(self) -> list[tuple[ScoredTrial, int, int]]:
        """The trials that together find most points: each with the new ones, and the sum so far.

        The first finds most, and each next one most of the points that are left.
        """
        left = {trial.number: trial.points.found(self.objective) for trial in self.trials}
        chosen, total = [], 0
        while left and len(chosen) < MOST_TOGETHER:
            trial = max(self.trials, key=lambda each: left.get(each.number, np.zeros(1)).sum())
            found = left.get(trial.number)
            if found is None or not found.any():
                break
            total += int(found.sum())
            chosen.append((trial, int(found.sum()), total))
            left = {number: points & ~found for number, points in left.items()}
        return chosen

    def points(self) -> list[dict[str, Any]]:
        """Each known point: its strip and place, and the rank that each training gives it.

        Trainings are those on all strips, or while there are none those of the search. `found` is
        the number of trainings that find it, as the objective counts.
        """
        runs = self.point_runs()
        if not runs:
            return []
        first = next(iter(runs.values()))
        places = [(strip.name, *point) for strip in first.strips for point in strip.points]
        ranks = {name: run.ranks() for name, run in runs.items()}
        found = sum(run.found(self.objective).astype(int) for run in runs.values())
        return [
            {
                "file": file,
                "y": y,
                "x": x,
                "ranks": {name: of_points[at] for name, of_points in ranks.items()},
                "found": int(found[at]),
            }
            for at, (file, y, x) in enumerate(places)
        ]

    def point_runs(self) -> dict[str, FoundPoints]:
        """The trainings that `points` shows, by name."""
        finals = {
            run_name(self.shared.finals, trial): points
            for runs in self._runs.values()
            for trial, points in runs
        }
        return finals or {f"trial_{trial.number:04d}": trial.points for trial in self.trials}

    def _points(self, study: optuna.Study, trial: FrozenTrial) -> FoundPoints | None:
        folder: Path = self.shared.folder / RUNS / run_name(study, trial)
        points = read_found_points(folder / POINTS_FILE)
        strips = self.shared.strips / (WHOLE if study is self.shared.finals else SAMPLE)
        is_whole = points and len(points.strips) == len(names_of(strips))
        return points if is_whole else None


def _flat(values: dict[str, Any] | None) -> dict[str, Any]:
    """The searched flags and amounts of a trial by name; none for the default settings."""
    return values["flags"] | values["amounts"] if values else {}
