"""Runs and exported files in MLflow: a real server on loopback, and a database in a folder."""

import json
import sys
import threading
from pathlib import Path

import pytest

import autoencoder.export as picture_export
import autoencoder.trainer as picture_trainer
import classifier.export_defect_model as classifier_export
import classifier.train_defect_model as classifier_trainer
import export_onnx_fullimage
import trainer
from common.errors import UserError
from common.mlflow_store import connect
from deploy.session import open_session
from scale.space import read_space
from scale.training_run import TrainingRun
from tests.autoencoder_models import write_kind
from tests.conftest import QUICK_OPSET, arguments_for, weights, without_test
from tests.defect_images import write_data
from training.tracking import TrackedRun


class Server:
    """MLflow's own server in this process, which may be away for a while."""

    def __init__(self, app):
        self.app, self.port, self._serving = app, 0, None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        from werkzeug.serving import make_server

        self._serving = make_server("127.0.0.1", self.port, self.app, threaded=True)
        self.port = self._serving.server_port
        threading.Thread(target=self._serving.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._serving.shutdown()
        self._serving.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "300",  # its first answer takes many seconds
        }.items():
            patch.setenv(name, value)
        from mlflow.server import app

        server = Server(app)
        server.start()
        yield server
        server.stop()


@pytest.fixture
def small(dataset, tmp_path):
    """A data set without test strips."""
    return without_test(dataset, tmp_path / "small")


def train(dataset, folder, *more):
    return trainer.train(trainer.parse_args(arguments_for(dataset, folder, *more)))


def history_of(folder):
    return [json.loads(line) for line in (folder / "run_metrics.jsonl").read_text().splitlines()]


def only_run(uri, name):
    """The one run of that name, and its client."""
    store = connect(uri)
    runs = store.client.search_runs([store.experiment], f"attributes.run_name = '{name}'")
    assert len(runs) == 1
    return runs[0], store.client


def steps_of(client, run, name):
    return {
        figure.step: figure.value for figure in client.get_metric_history(run.info.run_id, name)
    }


def test_a_run_is_there_with_figures_and_report_and_a_resumed_one_goes_on(
    server, dataset, tmp_path
):
    name = f"{tmp_path.name}"
    flags = ("--name", name, "--mlflow", server.uri)
    train(dataset, tmp_path, *flags, "--epochs", 1)
    first, _ = only_run(server.uri, name)
    assert first.info.status == "FINISHED"
    resuming = ["--resume", str(tmp_path), "--gpu_id", "-1", "--epochs", "2"]
    trainer.train(trainer.parse_args([*resuming, "--mlflow", server.uri]))
    run, client = only_run(server.uri, name)
    assert run.info.run_id == first.info.run_id and run.info.status == "FINISHED"
    assert run.data.params["lr"] == "0.001" and run.data.params["recipe"] == "classic"
    assert run.data.params["epochs"] == "1" and run.data.tags["resumed.epochs"] == "2"
    lines = (tmp_path / f"{name}_metrics.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    metric = next(entry for entry in history[0] if entry.startswith("valid_"))
    for figure in ("loss", "lr", metric):
        assert len(client.get_metric_history(run.info.run_id, figure)) == 2
        assert steps_of(client, run, figure) == {entry["epoch"]: entry[figure] for entry in history}
    tested = json.loads((tmp_path / f"{name}_test" / "metrics.json").read_text())
    assert run.data.metrics["test_strips"] == tested["strips"] > 0
    report = client.download_artifacts(run.info.run_id, f"{name}_test/report.html", str(tmp_path))
    assert Path(report).read_bytes() == (tmp_path / f"{name}_test/report.html").read_bytes()
    there = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {f"{name}_arguments.json", f"{name}_curves.png", f"{name}_samples.png"} <= there
    assert not [path for path in there if path.endswith((".pth", "_events"))]


def test_a_server_that_goes_away_stops_nothing_and_gets_later_what_it_missed(
    server, small, tmp_path, monkeypatch, capsys
):
    train(small, tmp_path / "alone", "--name", "run")
    sending, calls = TrackedRun.send, []

    def send(self):
        """The server is away for the first and second epoch."""
        calls.append(server.stop() if len(calls) == 1 else None)
        if len(calls) == 4:
            server.start()
        return sending(self)

    monkeypatch.setattr(TrackedRun, "send", send)
    train(small, tmp_path / "tracked", "--name", "run", "--mlflow", server.uri)
    printed = capsys.readouterr().err
    assert printed.count("warning: --mlflow") == printed.count("the training goes on") == 1
    assert "Traceback" not in printed
    for file in ("run.pth", "run_best.pth"):
        assert weights(tmp_path / "tracked" / file) == weights(tmp_path / "alone" / file)
    run, client = only_run(server.uri, "run")
    assert run.info.status == "FINISHED"
    assert steps_of(client, run, "loss") == {
        entry["epoch"]: entry["loss"] for entry in history_of(tmp_path / "alone")
    }


def test_what_is_missing_at_the_end_is_sent_by_a_resumed_run(
    server, small, tmp_path, monkeypatch, capsys
):
    def begin_without(self):
        server.stop()
        return self

    with monkeypatch.context() as patch:
        patch.setattr(TrackedRun, "__enter__", begin_without)
        train(small, tmp_path, "--name", "later", "--epochs", 1, "--mlflow", server.uri)
    server.start()
    assert "not all of the run is there" in capsys.readouterr().err
    trainer.train(
        trainer.parse_args(["--resume", str(tmp_path), "--gpu_id", "-1", "--mlflow", server.uri])
    )
    run, client = only_run(server.uri, "later")
    assert run.info.status == "FINISHED" and list(steps_of(client, run, "loss")) == [1]


@pytest.mark.parametrize(
    ("uri", "words"),
    (
        ("s3://bucket/x", "found something else, expected a folder, sqlite:"),
        ("postgresql://host/x", "found something else"),
        ("", "found something else"),
        ("sqlite:///{folder}/none/x.db", "found no folder .*none, expected one"),
        ("sqlite:///{folder}/text", "text cannot be used .file is not a database"),
        ("{folder}/text", "text: cannot be"),
        ("http://127.0.0.1:9", "found no usable MLflow .*127.0.0.1"),
    ),
)
def test_a_wrong_uri_is_one_line_before_a_training_begins(uri, words, small, tmp_path, server):
    (tmp_path / "text").write_text("no database" * 100)
    uri = uri.format(folder=tmp_path)
    with pytest.raises(UserError, match=f"^--mlflow {uri}: .*{words}") as raised:
        train(small, tmp_path / "run", "--mlflow", uri)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500
    assert not (tmp_path / "run").exists()


def test_a_password_is_neither_taken_nor_printed(small, tmp_path):
    with pytest.raises(
        UserError, match=r"^--mlflow http://host/x: found a user or a pass"
    ) as raised:
        connect("http://user:secret@host/x")
    assert "secret" not in str(raised.value)


def test_an_exported_file_is_a_version_whose_tags_are_its_metadata(
    make_checkpoint, tmp_path, monkeypatch, capsys
):
    store, output = tmp_path / "store", tmp_path / "model.onnx"
    client = connect(str(store)).client
    checkpoint = make_checkpoint(name="mine_best.pth")
    trained = client.create_run(connect(str(store)).experiment, run_name="mine").info.run_id
    checkpoint.with_name("mine_mlflow.json").write_text(json.dumps({"run_id": trained}))

    def export(*more):
        words = ["export", "--checkpoint_path", checkpoint, "--output_path", output]
        words += ["--opset_version", QUICK_OPSET, "--mlflow", store, *more]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        assert export_onnx_fullimage.main() == 0
        return capsys.readouterr().out

    assert "version 1 of the model mine at" in export()
    assert "version 1 of the model mine at" in export("--skip_existing")
    assert "version 2 of the model mine at" in export("--input", "uint8")
    assert "version 1 of the model line-3 at" in export(
        "--input", "uint8", "--model_name", "line-3"
    )
    entries = open_session(output).get_modelmeta().custom_metadata_map
    version = client.get_model_version("line-3", "1")
    assert version.run_id == trained
    assert {name: text for name, text in entries.items() if text}.items() <= version.tags.items()
    for name, number in (("mine", "2"), ("line-3", "1")):
        place = client.get_model_version_download_uri(name, number).removeprefix("file://")
        assert (Path(place) / output.name).read_bytes() == output.read_bytes()


def require_whole(store, name, history):
    """The run in MLflow with the loss of each epoch, and no weights; its files' names."""
    run, client = only_run(store, name)
    assert run.info.status == "FINISHED"
    entries = [json.loads(line) for line in history.read_text().splitlines()]
    losses = {entry["epoch"]: entry["loss"] for entry in entries}
    assert losses and steps_of(client, run, "loss") == losses
    files = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert not [path for path in files if path.endswith((".pth", "epochs", "events"))]
    return run, files


def version_of(store, name, path):
    """The first version of a model, whose tags have to be the metadata of the file at `path`."""
    version = connect(store).client.get_model_version(name, "1")
    entries = open_session(path).get_modelmeta().custom_metadata_map
    assert {key: text for key, text in entries.items() if text}.items() <= version.tags.items()
    return version


def test_the_detector_of_pictures_has_a_run_and_a_registered_file(tmp_path, capsys):
    root, store, runs = write_kind(tmp_path / "part"), str(tmp_path / "store"), tmp_path / "runs"
    words = ["--training_dataset_path", root, "--checkpoint_path", runs, "--name", "part"]
    words += ["--gpu_id", -1, "--base_channels", 2, "--depth", 2, "--epochs", 2, "--bs", 4]
    words += ["--epoch_crops", 8, "--input_size", 16, "--defect_size", 4, 8, "--keep_epochs", 1]
    words += ["--mlflow", store]
    (best,) = picture_trainer.train(picture_trainer.parse_args([str(word) for word in words]))
    run, files = require_whole(store, "part", runs / "part_metrics.jsonl")
    assert run.data.params["task"] == "segment"
    assert {"part_arguments.json", "part_curves.png"} <= files
    words = ["--models", best, "--windows", 16, "--output_path", tmp_path / "part.onnx"]
    arguments = picture_export.parse_args([*map(str, words), "--mlflow", store])
    path = picture_export.export(arguments)
    assert "part.onnx is version 1 of the model part at" in capsys.readouterr().out
    assert version_of(store, "part", path).run_id == run.info.run_id


def test_the_classifier_has_a_run_of_each_stage_and_a_registered_file(tmp_path, capsys):
    root, store = write_data(tmp_path / "data"), str(tmp_path / "store")
    words = ["--data_root", root, "--save_dir", tmp_path / "screws", "--gpu_id", -1]
    words += ["--batch_size", 8, "--decoder_channels", 8, 4, "--head_channels", 8, "--two_stages"]
    words += ["--stage1_epochs", 1, "--stage1_batch_size", 8, "--epochs", 2, "--mlflow", store]
    stages = classifier_trainer.train(classifier_trainer.parse_args([str(word) for word in words]))
    for folder in stages:
        run, files = require_whole(store, f"screws-{folder.name}", folder / "metrics.jsonl")
        assert {"arguments.json", "curves.png", "samples.png"} <= files
    assert run.data.params["init"] == str(stages[0])
    assert run.data.tags["checkpoint"] == str(stages[1] / "best_accuracy.pth")
    words = ["--checkpoint", stages[1], "--output_path", tmp_path / "screws.onnx"]
    arguments = classifier_export.parse_args([*map(str, words), "--mlflow", store])
    path = classifier_export.export(arguments)
    assert "screws.onnx is version 1 of the model screws-stage2 at" in capsys.readouterr().out
    assert version_of(store, "screws-stage2", path).run_id == run.info.run_id


def test_a_search_passes_the_flag_to_its_trainings_resumed_ones_too(tmp_path):
    space = read_space({"epochs": 1, "mlflow": "store", "lr": {"low": 1e-4, "high": 1e-3}}, {})
    run = TrainingRun("trial", tmp_path, tmp_path, space.fixed_flags, {})
    for resumed in (False, True):
        words = run._words()
        assert ("--resume" in words) == resumed
        assert words[words.index("--mlflow") + 1] == "store"
        run.files.last.touch()
