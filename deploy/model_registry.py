"""An exported file as a version of a registered model in MLflow, with its metadata as tags."""

from pathlib import Path

from common.errors import UserError
from common.files import file_hash
from common.mlflow_store import Store, failures_of_mlflow, find_run, unless_there

SHA256, FILE = "sha256", "file"  # tags of the file itself, besides the entries of its metadata
LONGEST_TAG = 5000  # characters that every MLflow takes; the file itself has the whole entry


def register(
    store: Store, path: Path, name: str, entries: dict[str, str], note: Path | None
) -> str:
    """Register an ONNX file as a new version of the model `name`, and return the version.

    A file that the model has already keeps its version. The file becomes an artifact of the run
    that the `note` of a training names, else of a new run. Raises `UserError`, which says that the
    file itself is complete.
    """
    try:
        with failures_of_mlflow():
            return _register(store, path, name, entries, note)
    except UserError as error:
        raise UserError(f"{path}: the file is complete, but not registered: {error}") from None


def _register(
    store: Store, path: Path, name: str, entries: dict[str, str], note: Path | None
) -> str:
    client, digest = store.client, file_hash(path)
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
