"""An MLflow to report to: a folder on this machine, a file of SQLite, or a server.

MLflow is imported only where --mlflow is given.
"""

import argparse
import logging
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, one_line, prefix_errors
from common.files import read_notes, refused_by_system
from common.packages import require_packages

EXPERIMENT = "background-removal-net"
SQLITE, DATABASE, ARTIFACTS = "sqlite:///", "mlflow.db", "artifacts"
EXPECTED = "expected a folder, sqlite:///FILE or http(s)://SERVER"
MISSING, EXISTS = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"  # MLflow's codes
LONGEST_LOCK = 5.0  # seconds that another process may hold a database
# how long a server that does not answer keeps a training waiting; what a user has set stays
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Store:
    """An MLflow that has answered: its client, and the experiment that runs belong to."""

    client: Any
    experiment: str


def add_mlflow(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --mlflow, where `what` goes."""
    parser.add_argument(
        "--mlflow",
        metavar="URI",
        help=f"MLflow that gets {what}: a folder, sqlite:///FILE or http(s)://SERVER",
    )


def connect(uri: str) -> Store:
    """Open the MLflow at a URI; of a folder it is a database in it.

    The experiment is that of MLFLOW_EXPERIMENT_NAME, else EXPERIMENT. Raises `UserError`, in one
    line, where the package is missing, and where no MLflow is.
    """
    with prefix_errors(f"--mlflow {_without_login(uri)}"):
        require_packages("mlflow")
        address, artifacts = _find_store(uri)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        with failures_of_mlflow():
            from mlflow import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.ERROR)
            client = MlflowClient(address, address)
            return Store(client, _experiment(client, artifacts))


def require_mlflow(uri: str | None) -> None:
    """Raise `UserError`, as `connect`, where no MLflow is at a URI; nothing for None."""
    if uri is not None:
        connect(uri)


@contextmanager
def failures_of_mlflow() -> Iterator[None]:
    """Turn what MLflow, and what it stands on, raises in the block into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of HTTP, of a database, of files, of MLflow itself
        raise UserError(f"found no usable MLflow ({_reason(error)}), {EXPECTED}") from None


def find_run(client: Any, note: Path) -> Any:
    """The run in MLflow that a run's note names; None without one, or where it is gone."""
    content = read_notes(note)
    if not isinstance(content, dict) or not isinstance(content.get("run_id"), str):
        return None
    from mlflow import MlflowException

    try:
        found = client.get_run(content["run_id"])
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return None
    return found if found.info.lifecycle_stage == "active" else None


@contextmanager
def unless_there() -> Iterator[None]:
    """Leave out what the block would make anew, where MLflow has it already."""
    from mlflow import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != EXISTS:
            raise


def _reason(error: Exception) -> str:
    """The first line of an error, or its end where that is long."""
    return one_line(Exception(str(error).strip().partition("\n")[0])) or type(error).__name__


def _without_login(uri: str) -> str:
    return re.sub(r"(?<=//)[^/]*@", "", uri)


def _find_store(uri: str) -> tuple[str, str | None]:
    """The address for MLflow, and where it is to put artifacts; None: where the server says.

    Raises `UserError`, without the URI, for one of another kind. It also raises it for a database
    that cannot be written, which MLflow tries for minutes.
    """
    if re.match(r"https?://[^/]", uri):
        if _without_login(uri) != uri:
            raise UserError(
                "found a user or a password in the URI, which files of a run would keep, "
                "expected MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return uri, None
    if uri.startswith(SQLITE) and uri != SQLITE:
        file = Path(uri.removeprefix(SQLITE)).absolute()
        if not file.parent.is_dir():
            raise UserError(f"found no folder {file.parent}, expected one")
    elif not uri or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", uri):
        raise UserError(f"found something else, {EXPECTED}")
    else:
        file = Path(uri).absolute() / DATABASE
        with refused_by_system(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
    import sqlite3  # not every Python has it

    try:
        with closing(sqlite3.connect(file, timeout=LONGEST_LOCK)) as database:
            database.execute("BEGIN IMMEDIATE")  # fails where nothing can be written
    except sqlite3.Error as error:
        raise UserError(f"{file} cannot be used ({one_line(error)}), {EXPECTED}") from None
    return f"{SQLITE}{file.as_posix()}", (file.parent / ARTIFACTS).as_uri()


def _experiment(client: Any, artifacts: str | None) -> str:
    """The identifier of the experiment, which is made where it is missing."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is None:
        with unless_there():  # made by another process just now
            return client.create_experiment(name, artifacts)
        found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        raise UserError(
            f"found that the experiment {name} was deleted, "
            "expected another one in MLFLOW_EXPERIMENT_NAME"
        )
    return found.experiment_id
