"""Training on strips in object storage, into a run folder there."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import trainer
from common.errors import UserError
from common.locations import cache_folder, written_place
from common.mirror import read_manifest
from common.storage import fetch, join, list_objects, put
from data.listing import list_images
from data.remote_folder import local_view
from data.strip_cache import OpenStrips
from tests.conftest import ROOT, arguments_for, weights, without_test
from training.checkpoint import load_checkpoint


@pytest.fixture
def small(dataset, tmp_path):
    """A data set without test strips."""
    return without_test(dataset, tmp_path / "small")


@pytest.fixture
def remote(bucket, small):
    for path in small.rglob("*"):
        if path.is_file():
            put(path, join(bucket, "data", path.relative_to(small).as_posix()))
    return bucket


def train(dataset, folder, *more):
    flags = arguments_for(Path("unused"), "unused", *more)
    for flag, place in (
        ("--training_dataset_path", join(dataset, "train", "good")),
        ("--checkpoint_path", str(folder)),
    ):
        flags[flags.index(flag) + 1] = place
    return trainer.train(trainer.parse_args(flags))


def test_a_run_in_storage_is_that_on_disk_and_goes_on_elsewhere(
    remote, small, s3, tmp_path, monkeypatch
):
    flags = ("--name", "run", "--epochs", 1, "--num_workers", 2)
    here = train(small, tmp_path / "here", *flags).with_name("run.pth")
    s3.heal()
    runs = f"{remote}/runs"
    train(f"{remote}/data", runs, *flags)
    assert weights(written_place(runs) / "run.pth") == weights(here)
    reads = {path: count for path, count in s3.reads().items() if "/data/" in path}
    assert set(reads.values()) == {1}
    assert len(reads) == len([p for p in small.rglob("*") if p.is_file()])
    found = {entry.location.removeprefix(f"{runs}/") for entry in list_objects(runs)}
    assert {"run.pth", "run_best.pth", "run_manifest.json", "run_metrics.jsonl"} <= found
    assert not [name for name in found if "lock" in name or "partial" in name]

    # another machine: nothing is there but the storage
    monkeypatch.setenv("REMOTE_CACHE", str(tmp_path / "another"))
    assert not written_place(runs).exists()
    further = ("--epochs", "2", "--gpu_id", "-1")
    trainer.train(trainer.parse_args(["--resume", runs, *further]))
    trainer.train(trainer.parse_args(["--resume", str(here), *further]))
    assert weights(written_place(runs) / "run.pth") == weights(here)

    put(tmp_path / "here" / "run.pth", f"{runs}/run_best.pth")  # of another run
    monkeypatch.setenv("REMOTE_CACHE", str(tmp_path / "third"))
    with pytest.raises(
        UserError, match=rf"^{runs}/run_best.pth: found another object than run_man"
    ):
        trainer.train(trainer.parse_args(["--resume", runs, "--epochs", "3"]))
    with pytest.raises(UserError, match=r"none: found no manifest of a run"):
        trainer.train(trainer.parse_args(["--resume", f"{remote}/none"]))


def test_resume_auto_begins_a_run_in_storage_or_goes_on_with_it(
    remote, s3, tmp_path, monkeypatch, capsys
):
    runs = f"{remote}/runs"
    flags = ("--name", "run", "--epochs", 1, "--resume", "auto")
    train(f"{remote}/data", runs, *flags)
    assert f"copied the run run from {runs}" not in capsys.readouterr().out
    monkeypatch.setenv("REMOTE_CACHE", str(tmp_path / "another"))
    train(f"{remote}/data", runs, *flags[:2], "--epochs", 2, *flags[4:])
    assert f"copied the run run from {runs}" in capsys.readouterr().out
    assert (written_place(runs) / "run_metrics.jsonl").read_text().count('"epoch"') == 2


class Sums(Dataset):
    """Strips by number, read in a worker."""

    def __init__(self, paths):
        self.strips = OpenStrips(paths, 0)

    def __len__(self):
        return len(self.strips.paths)

    def __getitem__(self, number):
        return torch.tensor(float(self.strips[number][:, 0:200, 0:150].sum()))


@pytest.mark.parametrize("way", ("fork", "spawn"))
def test_workers_fetch_by_themselves_and_each_object_once(remote, small, s3, way):
    s3.heal()
    paths = list_images(local_view(f"{remote}/data/train/good"))
    samples = Sums(paths)
    first = samples[0]  # this process has made a file system before its workers start
    loader = DataLoader(samples, num_workers=2, multiprocessing_context=way)
    sums = [[float(value) for value in loader] for _ in range(2)]
    expected = Sums(list_images(small / "train" / "good"))
    assert sums[0] == sums[1] == [float(expected[number]) for number in range(len(paths))]
    assert sums[0][0] == float(first)
    assert set(s3.reads().values()) == {1} and len(s3.reads()) == len(paths)


def begin(dataset, runs, *more):
    """A training that runs, in a process of its own."""
    words = arguments_for(dataset, "x", "--name", "run", *more)
    words[words.index("--checkpoint_path") + 1] = runs
    return subprocess.Popen(
        [sys.executable, "trainer.py", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_a_training_that_is_stopped_leaves_a_whole_run(remote, small, s3):
    runs = f"{remote}/runs"
    process = begin(small, runs, "--epochs", 500)
    while not (written_place(runs) / "run.pth").exists() and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=120) and process.returncode == 128 + signal.SIGTERM
    assert "run.pth" in read_manifest(runs, "run_manifest.json")
    assert cache_folder() in written_place(runs).parents


def test_a_training_that_is_killed_goes_on_from_storage_on_another_machine(
    remote, small, s3, tmp_path, monkeypatch
):
    epochs, manifests = (
        ("--epochs", 4),
        ("run_copies/0/manifest.json", "run_copies/1/manifest.json"),
    )
    alone = train(small, tmp_path / "alone", "--name", "run", *epochs).with_name("run.pth")
    runs, puts = f"{remote}/runs", []

    def is_in_the_third_copy(request):
        is_one = request.method == "PUT" and request.path.endswith(manifests)
        puts.extend([request.path] if is_one else [])
        # which replaces the first one, and stays half
        return len(puts) >= 2 and request.method == "PUT" and request.path.endswith("run.pth")

    killed = threading.Event()

    def kill():
        process.kill()
        killed.set()

    s3.fail(fits=is_in_the_third_copy, times=1, before=kill)
    process = begin(small, runs, *epochs, "--save_every", 1e-6)
    assert killed.wait(300) and process.wait() == -signal.SIGKILL
    process.stdout.close()
    whole = [name for name in manifests if list_objects(join(runs, name))]
    assert whole == [manifests[1]] and not list_objects(f"{runs}/run_manifest.json")

    monkeypatch.setenv("REMOTE_CACHE", str(tmp_path / "another"))
    with pytest.raises(UserError, match=rf"^{runs}/run_copies/.*: found a run of that name"):
        train(small, runs, "--name", "run", *epochs)
    seldom = ("--save_every", "60", "--gpu_id", "-1")
    trainer.train(trainer.parse_args(["--resume", runs, *seldom]))
    last = written_place(runs) / "run.pth"
    assert weights(last) == weights(alone)
    assert "run.pth" in read_manifest(runs, "run_manifest.json")
    assert not list_objects(f"{runs}/run_copies")


def test_a_copy_that_fails_is_a_warning_and_local_files_that_are_further_on_stay(
    remote, small, s3, tmp_path, capsys
):
    runs = f"{remote}/runs"
    begun = train(small, runs, "--name", "run", "--epochs", 1)
    s3.fail(
        fits=lambda request: request.method in ("PUT", "DELETE"), status=403, code="AccessDenied"
    )
    seldom = ("--save_every", "60", "--gpu_id", "-1")
    further = ("--resume", runs, "--epochs", "3", "--save_every", "1e-6", "--gpu_id", "-1")
    with pytest.raises(UserError, match=r"all files of the run are in"):
        trainer.train(trainer.parse_args(further))
    warnings = capsys.readouterr().err
    assert warnings.count("found no permission") == warnings.count("the training goes on") > 1
    s3.heal()
    with pytest.raises(UserError, match=r"run.pth: found 1 epochs done, and 3 in"):
        trainer.train(trainer.parse_args(["--resume", runs, *seldom]))
    train(small, runs, "--resume", "auto", "--name", "run", "--epochs", 3, *seldom)
    assert "further on than its copy" in capsys.readouterr().out
    content = load_checkpoint(fetch(f"{runs}/run.pth"))
    assert content["epoch"] == 3
    assert weights(fetch(f"{runs}/run.pth")) == weights(begun.with_name("run.pth"))
