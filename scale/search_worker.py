"""One process of a search: it takes trials, trains them, and sums up when all have ended."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from common.device import choose_device
from common.errors import UserError
from scale.finals import DEFAULT, enqueue_finals, finals_count
from scale.found_points import find_points
from scale.search_report import write_search_report
from scale.search_result import POINTS_FILE
from scale.search_strips import SAMPLE, WHOLE, names_of, scored_folder, training_folder
from scale.spec import Spec
from scale.study import JOURNAL, RUNS, SEARCH, SharedStudy, run_name, suggest
from scale.training_run import TrainingRun
from scale.trial_lease import Lease

WAIT = 1.0  # seconds between two looks at the trials of others
MOST_KILLED = 3  # times that a training may be ended from outside, as for its memory
MOST_FAILED = 5  # trials in a row, after which something else is wrong than the settings


@dataclass(frozen=True)
class Taken:
    """A trial that this process works on."""

    study: optuna.Study
    trial: optuna.Trial
    lease: Lease
    run: TrainingRun
    strips: Path


def work(spec: Spec, only_report: bool = False) -> None:
    """Take part in a search until its recommendation is there, and print that.

    Raises `UserError` when the study cannot be used, or the trainings cannot run.
    """
    if only_report and not (spec.study / JOURNAL).exists():
        raise UserError(f"{spec.study}: found no study, expected one that a search has begun")
    shared = SharedStudy(spec)
    if not only_report:
        shared.join()
        take_part(shared, shared.search, spec.trials)
        with shared.locked():
            enqueue_finals(shared)
        take_part(shared, shared.finals, finals_count(shared))
    for line in write_search_report(shared):
        print(line)


def take_part(shared: SharedStudy, study: optuna.Study, count: int) -> None:
    """Work on trials of a study until `count` of them have ended, those of others included."""
    while True:
        try:
            trial, lease = shared.take(study, count)
        except StopIteration:
            return
        if trial is None:
            time.sleep(WAIT)
            continue
        try:
            perform(shared, prepare(shared, study, trial, lease))
        except optuna.exceptions.UpdateFinishedTrialError:
            print(f"trial {trial.number}: another process has taken it over")
        finally:
            lease.release()


def prepare(shared: SharedStudy, study: optuna.Study, trial: optuna.Trial, lease: Lease) -> Taken:
    """The training of a trial, whose settings are drawn here where they are not yet."""
    spec, space = shared.spec, shared.spec.space
    is_search = study.study_name == SEARCH
    values: dict[str, Any] = trial.user_attrs.get("values") or {"flags": {}, "amounts": {}}
    if is_search and not trial.user_attrs.get("is_default"):
        values = space.draw(lambda name, part: suggest(trial, name, part))
        trial.set_user_attr("values", values)
    flags = space.fixed_flags | values["flags"]
    if spec.objective.false_alarms:
        flags |= {"target_false_alarms": spec.objective.false_alarms}
    if not is_search:
        flags |= {"seed": trial.user_attrs["seed"]}
    name = run_name(study, trial)
    strips = shared.strips / (SAMPLE if is_search else WHOLE)
    run = TrainingRun(
        name,
        shared.folder.absolute() / RUNS / name,
        training_folder(strips).absolute(),
        flags,
        space.fixed_amounts | values["amounts"],
    )
    return Taken(study, trial, lease, run, strips)


def perform(shared: SharedStudy, taken: Taken) -> None:
    """Train a trial, find its points, and tell the study how it ended.

    Raises `UserError` where trainings fail for another reason than their settings.
    """
    spec, study, trial, run = shared.spec, taken.study, taken.trial, taken.run
    metric, reported = spec.objective.metric, 0
    prunes = study.study_name == SEARCH and not trial.user_attrs.get("is_default")

    def observe(history: list[dict[str, Any]], process: int) -> bool:
        nonlocal reported
        is_begun = taken.lease.training is None
        taken.lease.training = process
        taken.lease.renew(now=is_begun)
        for entry in history[reported:]:
            if entry.get(metric) is not None:
                trial.report(entry[metric], entry["epoch"])
        is_new, reported = len(history) > reported, max(reported, len(history))
        return not (is_new and prunes and reported < spec.epochs and trial.should_prune())

    print(f"{run.name}: {describe_values(taken)}", flush=True)
    code = run.run(observe)
    if code == 0:
        value = run.value(metric)
        device = choose_device(run.flags.get("gpu_id"))
        scored, names = scored_folder(taken.strips), names_of(taken.strips)
        find_points(run.files.best, scored, names, device).save(run.folder / POINTS_FILE)
        study.tell(trial, value, skip_if_finished=True)
        print(f"{run.name}: {value:.4f}", flush=True)
    elif code is None:
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        print(f"{run.name}: ended after {reported} of {spec.epochs} epochs", flush=True)
    elif code < 0 or code > 128:
        _was_killed(shared, taken, code)
    else:
        _has_failed(taken)
    run.tidy()


def _was_killed(shared: SharedStudy, taken: Taken, code: int) -> None:
    """Enqueue a trial whose training something else has ended; not for ever."""
    study, trial = taken.study, taken.trial
    times = trial.user_attrs.get("killed", 0) + 1
    number = code - 128 if code > 0 else -code
    print(f"{taken.run.name}: ended from outside by signal {number}", flush=True)
    if times >= MOST_KILLED:
        raise UserError(
            f"{taken.run.folder}: found a training that signal {number} ended {times} times, "
            "expected it to end by itself: is there too little memory?"
        )
    with shared.locked():
        shared.enqueue_again(study, study.get_trials()[trial.number], killed=times)
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)


def _has_failed(taken: Taken) -> None:
    """Count a trial whose settings do not train as a bad one.

    Raises `UserError` where that cannot be for its settings: the default ones, one of the finals,
    or several in a row.
    """
    study, trial, problem = taken.study, taken.trial, taken.run.problem()
    trial.set_user_attr("problem", problem)
    if study.study_name != SEARCH or trial.user_attrs.get("is_default"):
        raise UserError(f"{taken.run.folder}: the training failed: {problem}")
    study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    print(f"{taken.run.name}: failed: {problem}", flush=True)
    ended = [each for each in study.get_trials(deepcopy=False) if each.state.is_finished()]
    last = [each for each in ended if each.state != TrialState.FAIL][-MOST_FAILED:]
    if len(last) == MOST_FAILED and all("problem" in each.user_attrs for each in last):
        raise UserError(
            f"{taken.run.folder}: found {MOST_FAILED} trials in a row that failed, the last: "
            f"{problem}"
        )


def describe_values(taken: Taken) -> str:
    """The settings of a trial in a line."""
    attributes = taken.trial.user_attrs
    if attributes.get("is_default") or attributes.get("setting") == DEFAULT:
        words = ["the default settings"]
    else:
        values = attributes["values"]
        pairs = (values["flags"] | values["amounts"]).items()
        words = [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in pairs
        ]
    resumes = attributes.get("resumes")
    return ", ".join(words) + (f"; goes on with trial {resumes}" if resumes is not None else "")
