"""Scoring an archive: equal to inference_onnx.py, whole after a kill, plain about errors."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import inference_onnx
from benchmarks.scale_job import descendants
from benchmarks.scale_kills import content
from benchmarks.scale_materials import WAYS_TO_BREAK, break_strip
from common import storage
from common.errors import run_command
from common.pipeline import READERS
from data.demo_strips import make_strip
from data.write_images import write_strip
from deploy.session import SessionSettings
from evaluation.results import INSPECTED_CONTRAST
from ops.registration import MEASURES
from reporting.score_folder import ScoringSettings
from scale import archive_job, local_engine, ray_engine, score_archive
from scale.archive import Archive
from scale.lease import process_start
from scale.listed import MEASURE_EVERY, is_sampled
from scale.output_folder import JOB, OutputFolder
from scale.strip_scorer import Job
from scale.tables import read_rows
from tests.conftest import ROOT, SMALL_SIZE, export_file
from tests.scale.deadly_archive import DeadlyArchive

STRIPS = 200
BREAKS = WAYS_TO_BREAK
# the statistics that take another registration
OF_A_SAMPLE = (*(f"ref{ref}_{name}" for ref in (1, 2) for name in MEASURES), INSPECTED_CONTRAST)
DEADLY = "found that it ended 2 processes that scored it alone, expected none"


@pytest.fixture(scope="module")
def onnx_model(write_checkpoint: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that registers its references, and of which it is known what contrast it finds."""
    folder = tmp_path_factory.mktemp("model")
    found = {"noise": "edges", "sigma": 1.0, "ratios": [2.0, 8.0], "heights": [0.1, 0.9]}
    checkpoint = write_checkpoint(folder / "best.pth", align="full", contrast_response=found)
    return export_file(checkpoint, folder / "best.onnx")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small strips in two folders, each drawn from a few and moved, six of them broken."""
    folder = tmp_path_factory.mktemp("archive")
    drawn = [make_strip(np.random.default_rng((7, number)), SMALL_SIZE) for number in range(4)]
    for number in range(STRIPS):
        image = np.roll(drawn[number % 4], number, axis=2)
        write_strip(folder / f"day{number % 2}" / f"strip_{number:04}.tiff", image)
    paths = sorted(folder.rglob("*.tiff"))
    for way in range(BREAKS):
        break_strip(paths[31 * way + 5], way, SMALL_SIZE)
    return folder


def words(model: Path, archive: Path, output: Path, *more: object) -> list[str]:
    flags = ("--model", model, "--input", archive, "--output", output, "--shard", 40)
    flags += ("--workers", 1, "--device", "cpu", "--threads", 1)
    return [str(word) for word in (*flags, *more)]


def score(*arguments: object) -> int:
    return run_command(lambda: score_archive.score(score_archive.parse_args(words(*arguments))))


@pytest.fixture(scope="module")
def whole(onnx_model: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a job that nobody disturbed."""
    output = tmp_path_factory.mktemp("whole") / "judged"
    assert score(onnx_model, archive, output) == 1
    return output


def test_each_strip_is_once_in_the_tables_and_broken_ones_among_the_errors(
    whole, archive, onnx_model, capsys
):
    names = sorted(path.relative_to(archive).as_posix() for path in archive.rglob("*.tiff"))
    tables = {name: list(read_rows(OutputFolder(whole), name)) for name in ("strips", "errors")}
    assert sorted(row["path"] for rows in tables.values() for row in rows) == names
    broken = [names[31 * way + 5] for way in range(BREAKS)]
    assert sorted(row["path"] for row in tables["errors"]) == broken
    assert all(row["problem"].startswith(("found", "cannot")) for row in tables["errors"])
    # nothing is left to do: the next start says the same
    assert score(onnx_model, archive, whole) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith(f"{STRIPS - BREAKS} of {STRIPS} strips scored, {BREAKS} could")
    assert "0 of them to do" in printed[-2]


def test_scores_are_those_of_inference_onnx_bit_for_bit(whole, archive, onnx_model, tmp_path):
    flags = ("--model_path", onnx_model, "--test_path", archive, "--output_dir", tmp_path / "out")
    arguments = inference_onnx.parse_args([str(word) for word in (*flags, "--device", "cpu")])
    assert run_command(lambda: inference_onnx.infer(arguments)) == 1
    with (tmp_path / "out" / "scores.csv").open() as file:
        expected = {row["file"]: row for row in csv.DictReader(file)}
    rows = {row["path"]: row for row in read_rows(OutputFolder(whole), "strips")}
    assert rows.keys() == expected.keys()
    for path, row in rows.items():
        # nine digits tell every float32 apart
        assert f"{row['score']:.9g}" == expected[path]["score"]
        assert row["verdict"] == expected[path]["verdict"]
        assert str(row["detections"]) == expected[path]["detections"]
    with (tmp_path / "out" / "detections.csv").open() as file:
        found = [(row["file"], row["y"], row["x"], row["margin"]) for row in csv.DictReader(file)]
    detections = read_rows(OutputFolder(whole), "detections")
    assert sorted(found) == sorted(
        (row["path"], str(row["y"]), str(row["x"]), str(row["margin"])) for row in detections
    )
    assert len(found) > 100


def rows_by_path(output: Path) -> dict[str, dict]:
    return {row["path"]: row | {"seconds": 0} for row in read_rows(OutputFolder(output), "strips")}


def test_a_sample_by_path_is_measured_in_full_and_nothing_else_changes(
    whole, archive, onnx_model, tmp_path
):
    assert score(onnx_model, archive, tmp_path / "judged", "--measure_every", 1) == 1
    every, some = rows_by_path(tmp_path / "judged"), rows_by_path(whole)
    sampled = {path for path in every if is_sampled(path, MEASURE_EVERY)}
    assert STRIPS / MEASURE_EVERY / 3 < len(sampled) < 3 * STRIPS / MEASURE_EVERY
    measured = {name for name in next(iter(every.values())) if name.startswith(OF_A_SAMPLE)}
    assert {"ref1_shift_y", "ref2_remainder", INSPECTED_CONTRAST} < measured
    assert all(row[name] is not None for row in every.values() for name in measured)
    for path, row in some.items():
        missing = {} if path in sampled else dict.fromkeys(measured)
        assert row == every[path] | missing
    assert some.keys() == every.keys()


def test_the_sample_is_that_of_the_job_that_goes_on(whole, archive, onnx_model, tmp_path, capsys):
    output = tmp_path / "judged"
    shutil.copytree(whole, output)
    assert score(onnx_model, archive, output, "--measure_every", 5) == 1
    assert f"found results of --measure_every {MEASURE_EVERY}, expected 5" in said(capsys)
    # a job of an earlier version measured each strip
    facts = OutputFolder(output).read_notes(JOB)
    del facts["measure_every"]
    OutputFolder(output).write_notes(JOB, facts)
    shutil.rmtree(output / "_done")
    assert score(onnx_model, archive, output) == 1
    assert all(row["ref1_shift_y"] is not None for row in rows_by_path(output).values())


def test_a_contrast_that_is_required_is_measured_in_each_strip(
    archive, onnx_model, tmp_path, capsys
):
    strips, flags = archive / "day1", ("--require_contrast", 0.001)
    with pytest.raises(SystemExit):
        score(onnx_model, strips, tmp_path / "judged", *flags, "--measure_every", 2)
    assert "found --measure_every 2 beside --require_contrast" in capsys.readouterr().err
    assert score(onnx_model, strips, tmp_path / "judged", *flags) == 1
    rows = rows_by_path(tmp_path / "judged").values()
    assert all("contrast" in row["reason"] and row[INSPECTED_CONTRAST] > 0 for row in rows)


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "scale.score_archive", *words(*arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_killed_at_random_moments_and_started_again_it_leaves_the_same(
    whole, archive, onnx_model, tmp_path
):
    generator = np.random.default_rng(11)
    output = tmp_path / "judged"
    for victim in ("worker", "job", "job"):
        before = len(OutputFolder(output).done())
        process = start(onnx_model, archive, output)
        wait_until(lambda: len(OutputFolder(output).done()) > before or process.poll() is not None)  # noqa: B023
        time.sleep(float(generator.uniform(0, 0.3)))
        workers = descendants(process.pid) if process.poll() is None else []
        killed = process.pid if victim == "job" else workers[-1]
        os.kill(killed, signal.SIGKILL)
        if victim == "job":
            process.communicate()
            # a worker without its job would score, and hold its memory, for ever
            wait_until(lambda: not any(map(process_start, workers)))  # noqa: B023
        else:
            process.send_signal(signal.SIGTERM)
            process.communicate()
            assert process.returncode in (1, 143)
    ends = OutputFolder(output).done().values()
    assert 0 < sum(end.strips + end.errors for end in ends) < STRIPS
    process = start(onnx_model, archive, output)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in errors, errors
    assert content(output) == content(whole)
    assert not list(output.rglob("*.partial"))


def test_another_model_or_setting_on_the_same_output_is_refused(
    whole, archive, onnx_model, make_checkpoint, tmp_path, capsys
):
    assert score(onnx_model, archive, whole, "--min_area", 3) == 1
    assert "found results of --min_area 1, expected 3: give another --output" in said(capsys)
    other = export_file(make_checkpoint(epoch=7), tmp_path / "other.onnx")
    capsys.readouterr()
    assert score(other, archive, whole) == 1
    assert "found results of --model SHA-256" in said(capsys)


def said(capsys: pytest.CaptureFixture) -> str:
    """The one line of an error."""
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    return errors[0]


def test_two_jobs_on_one_output_are_refused_and_the_first_goes_on(archive, onnx_model, tmp_path):
    output = tmp_path / "judged"
    first = start(onnx_model, archive, output)
    wait_until((output / "listing.parquet").exists)
    second = start(onnx_model, archive, output)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 1 and errors.count("\n") == 1, errors
    assert f"found another job at work there (process {first.pid} on" in errors
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 130 and "Traceback" not in errors


def test_a_strip_that_changed_after_the_listing_is_an_error(archive, onnx_model, tmp_path, capsys):
    folder, output = tmp_path / "strips", tmp_path / "judged"
    for path in sorted(archive.rglob("*.tiff"))[:5]:
        shutil.copy(path, folder / path.name) if folder.exists() else folder.mkdir()
    assert score(onnx_model, folder, output) == 0
    shard = next((output / "_done").iterdir())
    shard.unlink()
    names = sorted(path.name for path in folder.iterdir())
    os.utime(folder / names[0], ns=(0, 0))
    write_strip(folder / "later.tiff", make_strip(np.random.default_rng(5), SMALL_SIZE))
    assert score(onnx_model, folder, output) == 1
    (error,) = read_rows(OutputFolder(output), "errors")
    assert error["path"] == names[0] and "than when the archive was listed" in error["problem"]
    # what came later is not of this job
    assert len(list(read_rows(OutputFolder(output), "strips"))) == len(names) - 1


def require_all_but(output: Path, whole: Path, deadly: list[str]) -> None:
    """Require the content of `whole`, but for strips that are errors instead."""
    errors = {row["path"]: row["problem"] for row in read_rows(OutputFolder(output), "errors")}
    usual = {row["path"]: row["problem"] for row in read_rows(OutputFolder(whole), "errors")}
    assert {path: errors.pop(path, "") for path in deadly} == dict.fromkeys(deadly, DEADLY)
    assert errors == usual
    found, expected = content(output), content(whole)
    for table in ("strips", "detections"):
        kept = [row for row in expected[table] if not any(path in row for path in deadly)]
        assert found[table] == kept and len(kept) < len(expected[table])


def test_a_strip_that_ends_its_workers_is_an_error_and_the_others_are_scored(
    whole, archive, onnx_model, tmp_path, capsys, monkeypatch
):
    deadly = [sorted(row["path"] for row in read_rows(OutputFolder(whole), "strips"))[57]]
    monkeypatch.setattr(archive_job, "Archive", partial(DeadlyArchive, deadly=tuple(deadly)))
    assert score(onnx_model, archive, tmp_path / "judged") == 1
    assert f"{BREAKS + 1} could not be used" in capsys.readouterr().out.splitlines()[-1]
    require_all_but(tmp_path / "judged", whole, deadly)


def test_workers_that_end_with_every_strip_end_the_job(
    whole, archive, onnx_model, tmp_path, capsys, monkeypatch
):
    paths = tuple(path.relative_to(archive).as_posix() for path in archive.rglob("*.tiff"))
    monkeypatch.setattr(archive_job, "Archive", partial(DeadlyArchive, deadly=paths))
    monkeypatch.setattr(local_engine, "MOST_DEADLY", 2)
    assert score(onnx_model, archive, tmp_path / "judged") == 1
    assert "found that it and the 1 strips before it ended each process" in said(capsys)
    assert not OutputFolder(tmp_path / "judged").done()


@pytest.mark.long
def test_the_same_with_ray(whole, archive, onnx_model, tmp_path, capsys, monkeypatch):
    deadly = [sorted(row["path"] for row in read_rows(OutputFolder(whole), "strips"))[57]]
    monkeypatch.setattr(archive_job, "Archive", partial(DeadlyArchive, deadly=tuple(deadly)))
    assert score(onnx_model, archive, tmp_path / "judged", "--engine", "ray") == 1
    assert f"{BREAKS + 1} could not be used" in capsys.readouterr().out.splitlines()[-1]
    require_all_but(tmp_path / "judged", whole, deadly)


def raylets() -> set[int]:
    """The raylets of this machine, on Linux."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"raylet/raylet" in path.read_bytes().split(b"\0")[0]:
                found.add(int(path.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_ray_finds_the_same_and_leaves_nothing_behind_when_it_is_killed(
    whole, archive, onnx_model, tmp_path
):
    output, before = tmp_path / "judged", raylets()
    process = start(onnx_model, archive, output, "--engine", "ray")
    wait_until(lambda: OutputFolder(output).done() or process.poll() is not None, 180)
    assert process.poll() is None, process.communicate()
    own = raylets() - before
    assert own
    began = {number: process_start(number) for number in descendants(process.pid)}
    process.kill()
    process.communicate()
    wait_until(lambda: not any(map(process_start, own)))
    assert 0 < len(OutputFolder(output).done()) < 5
    process = start(onnx_model, archive, output, "--engine", "ray")
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in errors, errors
    assert f"{BREAKS} could not be used" in printed.splitlines()[-1]
    assert content(output) == content(whole) and not raylets() - before
    # Ray's agents look for their raylet themselves, which takes them a minute
    wait_until(lambda: not any(process_start(it) == at for it, at in began.items()), 180)


def test_actors_may_share_a_gpu(archive, onnx_model, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(ray_engine, "score_with_ray", lambda *given: seen.append(given[-1]))
    flags = ("--engine", "ray", "--device", "cuda", "--workers_per_gpu", 4, "--workers", 8)
    arguments = score_archive.parse_args(words(onnx_model, archive, tmp_path, *flags))
    job = Job(
        onnx_model, Archive(archive), SessionSettings("cuda"), ScoringSettings(output_dir=tmp_path)
    )
    archive_job.start_engine(job, iter(()), arguments)
    assert seen == [ray_engine.Actors(most=8, cpus=1, gpus=0.25)]


@contextmanager
def cluster() -> Iterator[str]:
    """The address of a cluster of this machine alone, which ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ("--head", "--block", "--port", port, "--num-cpus", 2, "--disable-usage-stats")
    flags += ("--include-dashboard", "false", "--object-store-memory", 200 * 2**20)
    command = [str(Path(sys.executable).with_name("ray")), "start", *map(str, flags)]
    # not in the folder of the test: the name of a socket may have 107 characters
    with tempfile.TemporaryDirectory(prefix="ray_") as folder:
        head = subprocess.Popen([*command, "--temp-dir", folder], stdout=subprocess.DEVNULL)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(60)


def answers(address: str) -> bool:
    host, _, port = address.partition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), 1):
        return True
    return False


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_cluster_that_runs_already_finds_the_same_and_goes_on(
    whole, archive, onnx_model, tmp_path
):
    output, before = tmp_path / "judged", raylets()
    with cluster() as address:
        wait_until(lambda: answers(address) and raylets() - before, 180)
        process = start(onnx_model, archive, output, "--engine", "ray", "--ray", address)
        printed, errors = process.communicate(timeout=600)
        assert process.returncode == 1 and "Traceback" not in errors, errors
        assert f"{BREAKS} could not be used" in printed.splitlines()[-1]
        assert content(output) == content(whole)
        assert raylets() - before
    wait_until(lambda: not raylets() - before)


def test_an_archive_in_object_storage_gives_the_same_tables_there(
    whole, archive, onnx_model, bucket, s3, capsys, monkeypatch
):
    names = sorted(path.relative_to(archive).as_posix() for path in archive.rglob("*.tiff"))
    # a whole strip, a broken one, and both folders; a link to nothing cannot be stored
    chosen = [*names[:12], *names[150:156]]
    for name in chosen:
        storage.put(archive / name, f"{bucket}/strips/{name}")
    storage.put(onnx_model, f"{bucket}/model.onnx")
    output = f"{bucket}/judged"
    s3.heal()
    s3.latency = 0.02
    monkeypatch.setattr(archive_job, "SAMPLE", 2)  # the others are fetched by the worker
    assert score(f"{bucket}/model.onnx", f"{bucket}/strips", output, "--shard", 5) == 1
    s3.latency = 0
    # fetched ahead, by more threads than read, and once
    reads = {path: times for path, times in s3.reads().items() if "/strips/day" in path}
    assert s3.most_at_once > READERS and reads and set(reads.values()) == {1}
    rows = {name: list(read_rows(OutputFolder(output), name)) for name in ("strips", "errors")}
    assert sorted(row["path"] for part in rows.values() for row in part) == chosen
    expected = {row["path"]: row for row in read_rows(OutputFolder(whole), "strips")}
    for row in rows["strips"]:
        assert row | {"seconds": 0} == expected[row["path"]] | {"seconds": 0}
    errors = {row["path"]: row["problem"] for row in read_rows(OutputFolder(whole), "errors")}
    assert {row["path"]: row["problem"] for row in rows["errors"]} == {names[5]: errors[names[5]]}
    # the second start reads no strip
    capsys.readouterr()
    assert score(f"{bucket}/model.onnx", f"{bucket}/strips", output, "--shard", 5) == 1
    assert "0 of them to do" in capsys.readouterr().out
    assert score(f"{bucket}/model.onnx", f"{bucket}/strips", output, "--min_area", 2) == 1
    assert "s3://" in (line := said(capsys)) and "found results of --min_area 1" in line
