"""The second stage of a search: the best few settings and the default ones, on all strips.

Each is trained with several seeds, which are none of the search's own.
"""

from typing import Any

from optuna.trial import FrozenTrial, TrialState

from scale.study import SharedStudy

DEFAULT = -1  # in the place of a setting's trial number
FIRST_SEED = 1001  # the trials of the search have trainer.py's own seed


def enqueue_finals(shared: SharedStudy) -> None:
    """Enqueue the trainings of the second stage that are not there yet; the lock must be held."""
    there = {
        (trial.user_attrs["setting"], trial.user_attrs["seed"])
        for trial in shared.finals.get_trials(deepcopy=False)
    }
    for setting, values in chosen_settings(shared).items():
        for seed in range(FIRST_SEED, FIRST_SEED + shared.spec.seeds):
            if (setting, seed) in there:
                continue
            name = "default" if setting == DEFAULT else f"{setting:04d}"
            attributes = {
                "setting": setting,
                "seed": seed,
                "values": values,
                "run": f"final_{name}_seed{seed}",
            }
            shared.finals.enqueue_trial({}, user_attrs=attributes)


def finals_count(shared: SharedStudy) -> int:
    """The number of trainings of the second stage."""
    return len(chosen_settings(shared)) * shared.spec.seeds


def chosen_settings(shared: SharedStudy) -> dict[int, dict[str, Any]]:
    """The flags and amounts of the default settings and of the best few, by trial number."""
    chosen: dict[int, dict[str, Any]] = {DEFAULT: {"flags": {}, "amounts": {}}}
    for trial in ranked_trials(shared):
        values = trial.user_attrs.get("values")
        if values and values not in chosen.values() and len(chosen) <= shared.spec.finalists:
            chosen[trial.number] = values
    return chosen


def ranked_trials(shared: SharedStudy) -> list[FrozenTrial]:
    """The trials of the search that were trained to the end, the best first."""
    trials = shared.search.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: (-trial.value, trial.number))
