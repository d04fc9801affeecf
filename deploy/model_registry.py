"""An exported file as a version of a registered model in MLflow, with its metadata as tags."""

import argparse
from pathlib import Path

from arguments import run_name
from common.errors import UserError
from common.files import file_hash
from common.mlflow_store import (
    add_mlflow,
    connect,
    failures_of_mlflow,
    find_run,
    unless_there,
)
from deploy.onnx_file import read_file

SHA256, FILE = "sha256", "file"  # tags of the file itself, besides the entries of its metadata
LONGEST_TAG = 5000  # characters that every MLflow takes; the file itself has the whole entry


def add_registry(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the flags of `register`; `default` says what a model is called without --model_name."""
    add_mlflow(parser, "the file as a version of a registered model")
    parser.add_argument(
        "--model_name",
        type=run_name,
        metavar="NAME",
        help=f"with --mlflow: the registered model; default: {default}",
    )


def register(uri: str, path: Path, name: str, note: Path | None) -> None:
    """Register an ONNX file as a new version of the model `name`, and print which one it is.

    A file that the model has already keeps its version. The file becomes an artifact of the run
    that the `note` of a training names, else of a new run. Raises `UserError`, which says that the
    file itself is complete.
    """
    try:
        with failures_of_mlflow():
            version = _register(uri, path, name, note)
    except UserError as error:
        raise UserError(f"{path}: the file is complete, but not registered: {error}") from None
    print(f"{path.name} is version {version} of the model {name} at {uri}")


def _register(uri: str, path: Path, name: str, note: Path | None) -> str:
    store, entries, digest = connect(uri), read_file(path), file_hash(path)
    client = store.client
    with unless_there():
        client.create_registered_model(name)
    for version in client.search_model_versions(f"name='{name}'"):
        if version.tags.get(SHA256) == digest:
            return version.version
    found = find_run(client, note) if note else None
    if found is None:
        found = client.create_run(store.experiment, run_name=name)
        client.set_terminated(found.info.run_id)
    # a folder for each file: a run may have several, and two of one name
    folder = f"onnx/{digest[:12]}"
    client.log_artifact(found.info.run_id, str(path), folder)
    tags = {name: text for name, text in entries.items() if text and len(text) <= LONGEST_TAG}
    made = client.create_model_version(
        name,
        f"{found.info.artifact_uri}/{folder}",
        found.info.run_id,
        tags=tags | {SHA256: digest, FILE: path.name},
    )
    return made.version
