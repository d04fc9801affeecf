import shutil

import pytest
import torch

from common.distributed import SINGLE_PROCESS
from common.errors import UserError
from common.files import file_hash
from common.settings import from_values
from tests.conftest import QUICK_OPSET, RUN, arguments_for, run, weights
from trainer import find_strips, parse_args, train
from training.checkpoint import load_checkpoint, save_checkpoint
from training.loop import Training
from training.run_folder import RunFolder
from training.strip_settings import TrainingSettings
from training.strip_task import StripTask

BEST = f"{RUN}_best.pth"


@pytest.fixture(scope="module")
def teacher(dataset, tmp_path_factory):
    """A larger network of another kind, as a training leaves it."""
    folder = tmp_path_factory.mktemp("teacher")
    return train(
        parse_args(arguments_for(dataset, folder, "--base_channels", 8, "--arch", "difference"))
    )


@pytest.fixture(scope="module")
def taught(dataset, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    return folder, run("trainer.py", *arguments_for(dataset, folder, "--teacher", teacher))


def training_for(dataset, folder, *flags):
    settings = from_values(
        TrainingSettings, vars(parse_args(arguments_for(dataset, folder, *flags)))
    )
    task = StripTask(settings, find_strips(settings), SINGLE_PROCESS.device)
    return Training(task, settings, SINGLE_PROCESS, RunFolder(folder, RUN))


def test_a_taught_network_says_who_taught_it_and_is_used_like_any_other(taught, teacher, tmp_path):
    folder, done = taught
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("network: ")]
    assert (
        f"unet with 4 base channels, on cpu; taught by {teacher} "
        "(difference with 8 base channels); 4 patches" in line
    )
    content = torch.load(folder / BEST, weights_only=True)
    assert (content["teacher"], content["teacher_sha256"]) == (str(teacher), file_hash(teacher))
    flags = (
        "--checkpoint_path",
        folder / BEST,
        "--output_path",
        tmp_path / "model.onnx",
        "--opset_version",
        QUICK_OPSET,
    )
    exported = run("export_onnx_fullimage.py", *flags)
    assert exported.returncode == 0, exported.stderr
    for command, model in (
        ("inference_pytorch.py", folder / BEST),
        ("inference_onnx.py", tmp_path / "model.onnx"),
    ):
        done = run(command, "--model_path", model, "--output_dir", tmp_path / command)
        assert done.returncode == 0, done.stderr


def test_it_begins_as_without_a_teacher_and_learns_something_else(
    taught, teacher, dataset, tmp_path
):
    alone, with_teacher = (
        training_for(dataset, tmp_path, *flags) for flags in ((), ("--teacher", teacher))
    )
    for one, other in zip(
        alone.network.state_dict().values(), with_teacher.network.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    train(parse_args(arguments_for(dataset, tmp_path)))
    assert weights(tmp_path / f"{RUN}.pth") != weights(taught[0] / f"{RUN}.pth")


@pytest.mark.parametrize("more", [(), ("--amp",), ("--accumulate", 2)])
def test_the_teacher_sees_the_same_batch_and_never_changes(teacher, dataset, tmp_path, more):
    training = training_for(dataset, tmp_path, "--teacher", teacher, *more)
    expected = load_checkpoint(teacher)["model_state_dict"]
    seen = {"network": [], "teacher": []}
    modules = {"network": training.network, "teacher": training.task.teacher}
    for name, images in seen.items():
        modules[name].register_forward_hook(
            lambda layer, given, answer, images=images: images.append((given[0], answer))
        )
    training.network.train()
    training.take_step(next(training.loader.steps(0, 0)))
    assert len(seen["network"]) == len(seen["teacher"]) == training.settings.accumulate
    for (images, logits), (taught_images, teacher_logits) in zip(seen["network"], seen["teacher"]):
        assert images is taught_images and logits.dtype == teacher_logits.dtype
        assert logits.requires_grad and not teacher_logits.requires_grad
    state = training.task.teacher.state_dict()
    assert not training.task.teacher.training and all(
        torch.equal(state[name], tensor) for name, tensor in expected.items()
    )
    assert training.checkpoint()["model_state_dict"].keys() == training.network.state_dict().keys()


def test_a_step_goes_along_the_gradient_of_both_losses(teacher, dataset, tmp_path):
    gamma = ("--gamma_schedule", "constant", "--gamma_start", 2)
    training = training_for(dataset, tmp_path, "--teacher", teacher, *gamma)
    (batch,) = next(training.loader.steps(0, 0))
    images, masks = batch["three_channel_input"], batch["target_mask"]
    logits = training.network(images)
    parts = (
        training.task.focal_loss(logits, masks, 2.0),
        training.task.teacher_loss(logits, training.task.teacher(images), masks, 2.0),
    )
    gradients = [
        torch.autograd.grad(part, training.network.head.weight, retain_graph=True)[0]
        for part in parts
    ]
    training.take_step([batch])
    assert torch.allclose(training.network.head.weight.grad, sum(gradients), rtol=1e-4, atol=1e-8)
    assert gradients[1].norm() > 0.01 * gradients[0].norm()


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--align", "full"), "found a teacher of --align none, expected full"),
        (("--image_type", "square"), "found a teacher of --image_type strip, expected square"),
        (("--input_max", 4095), "found a teacher of --input_max 255.0, expected 4095.0"),
    ],
)
def test_a_teacher_of_other_strips_is_refused(teacher, dataset, tmp_path, flags, message):
    done = run("trainer.py", *arguments_for(dataset, tmp_path, "--teacher", teacher, *flags))
    assert (
        done.returncode == 1
        and f"error: --teacher: {teacher}: {message}" in done.stderr
        and done.stderr.count("\n") == 1
    )
    assert not list(tmp_path.iterdir())


def test_a_teacher_that_is_not_there_or_no_checkpoint_is_refused(dataset, tmp_path):
    (tmp_path / "text.pth").write_text("no checkpoint")
    for name, message in (
        ("nothing.pth", "found no such file"),
        ("text.pth", "found no readable checkpoint"),
    ):
        done = run(
            "trainer.py", *arguments_for(dataset, tmp_path / "out", "--teacher", tmp_path / name)
        )
        assert (
            done.returncode == 1
            and f"error: --teacher: {tmp_path / name}: {message}" in done.stderr
        )
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", [BEST, f"{RUN}.pth"])
def test_a_run_does_not_write_over_its_teacher(teacher, dataset, tmp_path, name):
    shutil.copy(teacher, tmp_path / name)
    with pytest.raises(
        UserError,
        match="found a file that this very run writes, expected another --checkpoint_path",
    ):
        train(
            parse_args(
                arguments_for(dataset, tmp_path, "--teacher", tmp_path / name, "--overwrite")
            )
        )
    assert weights(tmp_path / name) == weights(teacher)


def test_a_resumed_run_keeps_its_teacher(taught, teacher, dataset, tmp_path):
    """Its path and its hash are kept; it may move, but not change or be left away."""
    own = tmp_path / "own_teacher.pth"
    shutil.copy(teacher, own)
    flags = arguments_for(dataset, tmp_path / "run", "--teacher", own)
    assert run("trainer.py", *flags).returncode == 0
    last = tmp_path / "run" / f"{RUN}.pth"
    moved = own.rename(tmp_path / "moved.pth")
    longer = ("--resume", last, "--epochs", 4)
    gone = run("trainer.py", *longer)
    assert (
        gone.returncode == 1
        and f"error: --teacher: {own}: found no such file" in gone.stderr
        and gone.stderr.count("\n") == 1
    )
    save_checkpoint(own, load_checkpoint(teacher) | {"seed": 1})
    changed = run("trainer.py", *longer)
    message = (
        f"found another checkpoint ({file_hash(own)[:12]}), "
        "expected the one that the run was begun with"
    )
    assert changed.returncode == 1 and f"{message} ({file_hash(teacher)[:12]})" in changed.stderr, (
        changed.stderr
    )
    assert changed.stderr.count("\n") == 1
    done = run("trainer.py", *longer, "--teacher", moved)
    assert done.returncode == 0 and f"taught by {moved} " in done.stdout, done.stderr
    content = load_checkpoint(tmp_path / "run" / f"{RUN.replace('ep3', 'ep4')}.pth")
    assert (content["teacher"], content["teacher_sha256"]) == (str(moved), file_hash(teacher))


def test_a_run_without_a_teacher_gets_none_when_it_is_resumed(teacher):
    done = run("trainer.py", "--resume", teacher.with_name(f"{RUN}.pth"), "--teacher", teacher)
    assert (
        done.returncode == 1
        and "found a run without a teacher, expected one that was begun with" in done.stderr
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.long
def test_a_compiled_network_learns_the_same_from_its_teacher(taught, teacher, dataset, tmp_path):
    train(parse_args(arguments_for(dataset, tmp_path, "--teacher", teacher, "--compile")))
    histories = [
        load_checkpoint(folder / f"{RUN}.pth")["history"] for folder in (tmp_path, taught[0])
    ]
    assert all(
        one["loss"] == pytest.approx(other["loss"], rel=0.02)
        for one, other in zip(*histories, strict=True)
    )
