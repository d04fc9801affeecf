"""The training loop with the task of another tool: trained, stopped, resumed and refused."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import export_onnx_fullimage
import inference_pytorch
from common.distributed import SINGLE_PROCESS
from common.errors import Stopped, UserError
from common.settings import from_values
from training.checkpoint import load_checkpoint, read_checkpoint
from training.loop import Training
from training.resume import require_resumable, resumed_values
from training.run_folder import NOT_FINITE_SUFFIX, RunFolder
from training.selection import VALID
from training.settings import LoopSettings, Start
from training.task import Batch, Forward, Task, Validation

TOOL = "line fitter"


@dataclass(frozen=True, kw_only=True)
class FitterSettings(LoopSettings):
    slope: float


class LineSamples:
    """Points of a line, x and y, drawn from (epoch, index); sample `breaks_at` is not a number."""

    def __init__(self, slope: float, breaks_at: int | None = None):
        self.slope, self.breaks_at = slope, breaks_at

    def __len__(self) -> int:
        return 12

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        x = torch.from_numpy(np.random.default_rng(key).normal(size=1).astype(np.float32))
        if key[1] == self.breaks_at:
            x = x + torch.nan
        return {"x": x, "y": self.slope * x}

    def origin(self, index: int) -> dict[str, object]:
        return {"number": index}


class FitTask(Task):
    """Fits a line; it uses nothing of the strip detector."""

    tool, command = TOOL, "fit.py"
    metric, headlines, has_validation = f"{VALID}closeness", ("closeness",), True

    def __init__(self, settings: FitterSettings, breaks_at: int | None = None):
        self.settings, self.samples = settings, LineSamples(settings.slope, breaks_at)

    def make_network(self) -> nn.Module:
        return nn.Linear(1, 1)

    def predict(self, forward: Forward, batch: Batch) -> torch.Tensor:
        return forward(batch["x"])

    def loss(self, predicted: torch.Tensor, batch: Batch, epoch: int) -> torch.Tensor:
        return (predicted.float() - batch["y"]).square().mean()

    def validate(self, network: nn.Module, processes) -> Validation:
        return Validation(
            {"closeness": 1 / (1 + abs(float(network.weight.detach()) - self.settings.slope))}
        )

    def describe(self) -> tuple[str, str, str]:
        return "12 points", "a line", ""


def settings_for(folder, **changes):
    values = {
        "checkpoint_path": folder,
        "bs": 4,
        "accumulate": 1,
        "lr": 0.1,
        "lr_schedule": "steps",
        "epochs": 5,
        "gpu_id": -1,
        "seed": 42,
        "num_workers": None,
        "save_every": 5.0,
        "patience": None,
        "amp": False,
        "compile": False,
        "deterministic": False,
        "sync_batch_norm": False,
        "slope": 2.0,
    }
    return values | changes


def train(values, resumed=None, breaks_at=None, stop_after=None):
    settings = from_values(FitterSettings, values)
    task = FitTask(settings, breaks_at)
    training = Training(
        task, settings, SINGLE_PROCESS, RunFolder(settings.checkpoint_path, "fit"), resumed
    )
    if stop_after is not None:
        take_step = training.take_step

        def stop_after_step(batches):
            take_step(batches)
            if training.steps_done == stop_after:
                raise Stopped(15)

        training.take_step = stop_after_step
    training.run()
    return training


def weights(path):
    return {
        name: tensor.numpy().tobytes()
        for name, tensor in read_checkpoint(path, TOOL)["model_state_dict"].items()
    }


def test_another_task_is_trained_selected_and_saved(tmp_path, capsys):
    training = train(settings_for(tmp_path))
    content = read_checkpoint(tmp_path / "fit.pth", TOOL)
    assert (content["tool"], content["slope"], content["epoch"]) == (TOOL, 2.0, 5)
    closeness = [entry["valid_closeness"] for entry in content["history"]]
    assert (
        closeness[-1] > closeness[0]
        and read_checkpoint(tmp_path / "fit_best.pth", TOOL)["epoch"] == training.best_epoch
    )
    assert (
        "12 points; 12 patches per epoch" in (printed := capsys.readouterr().out)
        and "closeness 0." in printed
    )
    assert (tmp_path / "fit_curves.png").is_file() and len(
        (tmp_path / "fit_metrics.jsonl").read_text().splitlines()
    ) == 5


def test_a_run_stopped_within_an_epoch_resumes_to_the_same_weights(tmp_path, capsys):
    train(settings_for(tmp_path / "whole"))
    with pytest.raises(Stopped):
        train(settings_for(tmp_path / "parts"), stop_after=7)
    assert "python fit.py --resume" in capsys.readouterr().err
    last = tmp_path / "parts" / "fit.pth"
    content = read_checkpoint(last, TOOL)
    assert (content["epoch"], content["step"]) == (2, 1)
    require_resumable(content, 1)
    given = settings_for(tmp_path, slope=3.0)
    values = resumed_values(given, Start(True), content, last.parent, {}, frozenset())
    assert values["slope"] == 2.0
    train(values, content)
    assert weights(last) == weights(tmp_path / "whole" / "fit.pth")
    with pytest.raises(UserError, match=r"found a run of --slope 2\.0, expected 3\.0"):
        resumed_values(
            given, Start(True, given=frozenset(["slope"])), content, last.parent, {}, frozenset()
        )


def test_a_loss_that_is_not_finite_is_reported_with_its_samples(tmp_path):
    with pytest.raises(UserError, match="the loss is not finite since step"):
        train(settings_for(tmp_path), breaks_at=5)
    kept = torch.load(tmp_path / f"fit{NOT_FINITE_SUFFIX}", weights_only=True)
    assert {"number": 5} in kept["patches"] and not (tmp_path / "fit.pth").exists()


def test_the_strip_detectors_commands_refuse_a_checkpoint_of_another_tool(tmp_path):
    train(settings_for(tmp_path))
    best = tmp_path / "fit_best.pth"
    expected = f"{best}: found a model of the {TOOL}, expected one of the strip detector"
    for command in (
        lambda: load_checkpoint(best),
        lambda: inference_pytorch.infer(inference_pytorch.parse_args(["--model_path", str(best)])),
        lambda: export_onnx_fullimage.export(
            export_onnx_fullimage.parse_args(["--checkpoint_path", str(best)])
        ),
    ):
        with pytest.raises(UserError) as refused:
            command()
        assert str(refused.value) == expected
