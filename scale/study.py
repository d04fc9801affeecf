"""The study of a search on disk, shared by processes: Optuna's journal, leases and one lock.

A process that is killed leaves its trial RUNNING in the journal for ever. Whoever takes the next
trial first looks for those without a living owner. Their settings are enqueued again, with the name
of their training, which goes on from its own last checkpoint; the lost trial counts as failed.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from common.errors import UserError
from common.files import atomic_write, read_notes, refused_by_system
from scale.search_strips import make_data_sets
from scale.space import Choice, Part
from scale.spec import Spec
from scale.trial_lease import Lease, has_living_owner

try:
    import fcntl
except ImportError:  # Windows has no fcntl
    fcntl = None

SEARCH, FINALS = "search", "finals"
JOURNAL, SPEC_FILE, STRIPS, RUNS, LEASES = (
    "journal.log",
    "spec.json",
    "strips",
    "runs",
    "leases",
)
# kinds of file systems that neither lock files nor link them at once for all
WITHOUT_LOCKS = ("cifs", "smb", "smb3", "smbfs", "vboxsf", "drvfs", "fuse.")
REDUCTION = 3  # Hyperband keeps one trial in so many at each step
# states of trials that count: a lost one does not, since its settings run again
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)

optuna.logging.set_verbosity(optuna.logging.WARNING)


class SharedStudy:
    """A search's study, opened by one of its processes.

    Raises `UserError` when its folder cannot be used or is that of another search, and when the
    strips cannot be.
    """

    def __init__(self, spec: Spec):
        self.spec, self.folder = spec, spec.study
        if fcntl is None:
            raise UserError("found a system without file locks, expected Linux or macOS")
        require_locks(self.folder)
        with refused_by_system(self.folder):
            (self.folder / LEASES).mkdir(parents=True, exist_ok=True)
        with self.locked():
            self._require_same_spec()
            if not self.strips.exists():
                make_data_sets(spec, self.strips)
            storage = JournalStorage(JournalFileBackend(str(self.folder / JOURNAL)))
            self.search = self._open(storage, SEARCH)
            self.finals = self._open(storage, FINALS)
            if not self.search.get_trials(deepcopy=False):
                self.search.enqueue_trial({}, user_attrs={"is_default": True})

    @property
    def strips(self) -> Path:
        """The folder of the data sets."""
        return self.folder / STRIPS

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the study, which the system releases however the process ends."""
        path = self.folder / ".lock"
        with refused_by_system(path), path.open("a") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield

    def _require_same_spec(self) -> None:
        path = self.folder / SPEC_FILE
        own = json.loads(json.dumps(asdict(self.spec), default=str))
        for name in ("study", "trials"):
            own.pop(name)
        stored = read_notes(path)
        for name, value in own.items():
            if isinstance(stored, dict) and stored.get(name) != value:
                raise UserError(
                    f"{self.folder}: found a study with another {name}, expected the same spec but "
                    "for trials, or another study"
                )
        if stored is None:
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(own, indent=1) + "\n")

    def _open(self, storage: JournalStorage, name: str) -> optuna.Study:
        pruner = optuna.pruners.HyperbandPruner(1, self.spec.epochs, REDUCTION)
        return optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            pruner=pruner if name == SEARCH else optuna.pruners.NopPruner(),
        )

    def join(self) -> None:
        """Take a number among the processes that work, which seeds the sampler."""
        with self.locked():
            number = self.search.user_attrs.get("workers", 0)
            self.search.set_user_attr("workers", number + 1)
        seed = int(np.random.default_rng((self.spec.seed, number)).integers(2**32))
        self.search.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)

    def take(self, study: optuna.Study, count: int) -> tuple[optuna.Trial | None, Lease | None]:
        """The next trial of at most `count`, with its lease; None where others still run.

        Raises `StopIteration` when all have ended.
        """
        with self.locked():
            self._take_back(study)
            trials = study.get_trials(deepcopy=False)
            counted = [trial for trial in trials if trial.state in COUNTED]
            is_waiting = any(trial.state == TrialState.WAITING for trial in counted)
            if is_waiting or len(counted) < count:
                trial = study.ask()
                lease = Lease(self._lease_of(study, trial.number))
                lease.renew(now=True)
                return trial, lease
            if any(trial.state == TrialState.RUNNING for trial in counted):
                return None, None
            raise StopIteration

    def _take_back(self, study: optuna.Study) -> None:
        """Enqueue the settings of running trials without a living owner, which then fail.

        In this order, so that nothing is lost whenever this process is killed.
        """
        trials = study.get_trials(deepcopy=False)
        resumed = {trial.user_attrs.get("resumes") for trial in trials}
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                continue
            lease = self._lease_of(study, trial.number)
            if has_living_owner(lease):
                continue
            if trial.number not in resumed:
                self.enqueue_again(study, trial)
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            lease.unlink(missing_ok=True)

    def enqueue_again(self, study: optuna.Study, trial: FrozenTrial, **more: Any) -> None:
        """Enqueue the settings of a trial, whose training goes on."""
        again = {"resumes": trial.number, "run": run_name(study, trial)}
        study.enqueue_trial(dict(trial.params), user_attrs=trial.user_attrs | again | more)

    def _lease_of(self, study: optuna.Study, number: int) -> Path:
        return self.folder / LEASES / f"{study.study_name}_{number:04d}.json"


def run_name(study: optuna.Study, trial: FrozenTrial | optuna.Trial) -> str:
    """The name of a trial's training; a trial that goes on with another's has the other's name."""
    default = f"{'trial' if study.study_name == SEARCH else 'final'}_{trial.number:04d}"
    return trial.user_attrs.get("run", default)


def suggest(trial: optuna.Trial, name: str, part: Part) -> Any:
    """A trial's value of one parameter."""
    if isinstance(part, Choice):
        labels = part.labels
        return part.values[labels.index(trial.suggest_categorical(name, labels))]
    draw = trial.suggest_int if part.is_whole else trial.suggest_float
    return draw(name, part.low, part.high, log=part.log)


def require_locks(folder: Path) -> None:
    """Raise `UserError` for a folder on a file system whose locks do not hold between machines."""
    place, kind, longest = str(folder.absolute()), "", -1
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return  # not Linux
    for line in mounts:
        _, mounted, found, *_ = line.split(" ")
        mounted = mounted.replace("\\040", " ").rstrip("/")
        is_inside = place == mounted or place.startswith(f"{mounted}/")
        if is_inside and len(mounted) > longest:
            kind, longest = found, len(mounted)
    if kind.startswith(WITHOUT_LOCKS):
        raise UserError(
            f"{folder}: found a study on {kind}, whose locks do not hold, "
            "expected a local file system or NFS"
        )
