"""--mlflow where the package is not there; with it: tests/scale/test_tracking.py."""

import sys

import pytest

import autoencoder.trainer as picture_trainer
import classifier.train_defect_model as classifier_trainer
import export_onnx_fullimage
import trainer
from common.errors import UserError
from tests.conftest import arguments_for

LINE = r"^--mlflow store: found no package mlflow, .*: pip install -r requirements-scale.txt$"


@pytest.fixture(autouse=True)
def without_mlflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)


def test_a_training_does_not_begin_without_the_package_that_it_is_to_use(
    dataset, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = arguments_for(dataset, tmp_path / "run", "--mlflow", "store")
    with pytest.raises(UserError, match=LINE):
        trainer.train(trainer.parse_args(words))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tool", "data", "runs"),
    (
        (picture_trainer, "--training_dataset_path", "--checkpoint_path"),
        (classifier_trainer, "--data_root", "--save_dir"),
    ),
)
def test_nor_does_one_of_the_other_tools(tool, data, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [data, "pictures", runs, "run", "--gpu_id", "-1", "--mlflow", "store"]
    with pytest.raises(UserError, match=LINE):
        tool.train(tool.parse_args(words))
    assert not list(tmp_path.iterdir())


def test_an_export_does_not_begin_without_the_package_either(
    make_checkpoint, tmp_path, monkeypatch
):
    words = ["export", "--checkpoint_path", make_checkpoint(), "--output_path", tmp_path / "x.onnx"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in [*words, "--mlflow", "store"]])
    with pytest.raises(UserError, match=LINE):
        export_onnx_fullimage.main()
    assert not (tmp_path / "x.onnx").exists()
