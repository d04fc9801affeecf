"""Files, disks and interruptions that nobody wishes for: one line that says what is wrong."""

import errno
import json
import math
import multiprocessing
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import tifffile
import torch

import export_onnx_fullimage
import inference_onnx
import inference_pytorch
import trainer
from benchmarks.hostile.materials import take_one_step
from common.distributed import SINGLE_PROCESS
from common.errors import UserError, prefix_errors, run_command
from common.files import fitting_name, new_folder, remove_partial_files
from common.pipeline import StageTimes
from data.folder import StripFile
from data.ignored_regions import IgnoredRegions
from data.image_files import load_image
from data.recipes import ClassicRecipe
from data.strip_cache import OpenStrips, has_shared_memory
from data.strip_in_file import StripInFile
from data.verify import VerifiedFiles
from data.write_images import write_strip
from dataloader import StripPatches, TrainingLoader
from deploy.metadata import write_entries
from deploy.onnx_predictor import OnnxPredictor
from evaluation.stream import iter_predictions
from reporting import output_folder
from reporting.tables import write_table
from tests.conftest import ROOT, SMALL_SIZE, arguments_for, without_test
from training.checkpoint import load_checkpoint
from training.resume import RESUME_KEYS
from training.run_folder import LOCK, only_training_in

STRIP = np.full((3, 130, 130), 90, np.uint8)


def last_line(capsys: pytest.CaptureFixture) -> str:
    """The only line of an error."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "error, line",
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "/a: cannot be used (Perm"),
        (OSError(errno.ENOSPC, "No space left", "/a"), "/a: cannot be written (No space"),
        (OSError(errno.ENOSPC, "No space left"), "standard output: cannot be written"),
        (FileNotFoundError(errno.ENOENT, "No such"), "the working folder: cannot be used (No"),
        (MemoryError("Unable to allocate 9 GiB"), "found too little memory (Unable to allocate 9"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "found too little memory"),
        (RuntimeError("Symlink loop from '/a'"), "Symlink loop from '/a'"),
        (RecursionError("too deep"), "found a content that is nested too deeply"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "found a text that is not valid"),
        (OverflowError("int too large"), "found a number that is too large (int too large)"),
    ],
)
def test_whatever_the_machine_raises_is_one_line(error, line, capsys):
    def command() -> None:
        raise error

    assert run_command(command) == 1
    assert last_line(capsys).startswith(f"error: {line}")


def test_a_mistake_of_the_code_keeps_its_traceback():
    def command() -> None:
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        run_command(command)


@pytest.mark.parametrize(
    "name", ["n" * 300, "loop/x", "\udcff.tiff", "x\n.tiff"], ids=["long", "loop", "bytes", "line"]
)
def test_a_path_that_no_system_takes_is_one_line(name, tmp_path, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    words = ["--method", "smoothed", "--threshold", "1", "--gpu_id", "-1"]
    words += ["--output_dir", str(tmp_path / "out"), "--test_path", str(tmp_path / name)]
    code = run_command(lambda: inference_pytorch.infer(inference_pytorch.parse_args(words)))
    error = capsys.readouterr().err
    assert code == 1 and error.startswith("error: ") and "Traceback" not in error


def test_memory_that_runs_out_names_the_file_and_costs_one_strip(tmp_path):
    """One strip's failure is that strip's alone."""
    strips = [StripFile(tmp_path / name, Path(name), None, None) for name in ("a", "b", "c")]

    def load(strip: StripFile):
        with prefix_errors(strip.path):
            if strip.path.name == "b":
                raise MemoryError("Unable to allocate 9 GiB")
        return np.zeros((3, 4, 4), np.float32), None

    answers = list(
        iter_predictions(lambda image: image[0], strips, load, IgnoredRegions(), StageTimes())
    )
    assert [isinstance(answer, UserError) for answer in answers] == [False, True, False]
    assert str(answers[1]).startswith(f"{tmp_path / 'b'}: found too little memory (Unable")


@pytest.mark.parametrize("name", ["pipe.tiff", "pipe.png", "zero.tiff", "zero.png", "folder.tiff"])
def test_only_regular_files_are_opened(name, tmp_path):
    path, kind = tmp_path / name, Path(name).stem
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    found = {"pipe": "a FIFO", "zero": "a device", "folder": "a folder"}[kind]
    with pytest.raises(UserError, match=f"found {found}, expected a regular file"):
        load_image(path)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_bytes(b"\xff\xfe{"),
    ],
    ids=["fifo", "device", "nested", "no text"],
)
def test_notes_that_cannot_be_read_are_begun_anew(write, tmp_path):
    notes = tmp_path / ".checked_strips.json"
    write(notes)
    VerifiedFiles(notes).save()
    assert notes.is_file() and not notes.is_symlink() and notes.read_text() == "{}"


def png_of(height: int, width: int) -> bytes:
    """A PNG whose header says more than its few pixels."""
    encoded = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    header = b"IHDR" + struct.pack(">II", width, height) + encoded[24:29]
    return encoded[:12] + header + struct.pack(">I", zlib.crc32(header)) + encoded[33:]


def jpg_of(height: int, width: int) -> bytes:
    """The same of a JPG."""
    encoded = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    place = encoded.index(b"\xff\xc0") + 5
    return encoded[:place] + struct.pack(">HH", height, width) + encoded[place + 4 :]


@pytest.mark.parametrize("suffix, encode", [(".png", png_of), (".jpg", jpg_of)])
def test_the_size_is_looked_at_before_a_picture_is_decoded(suffix, encode, tmp_path):
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(encode(60_000, 50_000))
    with pytest.raises(UserError, match=r"found an image of \(60000, 50000\), 12000 million"):
        load_image(path)


def write_bomb(path: Path, of: str, tile: tuple[int, int] | None) -> Path:
    """A small TIFF that calls its image or its tiles 60,000 pixels high and 50,000 wide."""
    tifffile.imwrite(path, STRIP, photometric="minisblack", compression="zlib", tile=tile)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            page.tags[f"{of}Length"].overwrite(60_000)
            page.tags[f"{of}Width"].overwrite(50_000)
    return path


@pytest.mark.parametrize("tile", [None, (16, 16)], ids=["strips", "tiles"])
def test_the_size_is_looked_at_before_a_tiff_is_decoded(tile, tmp_path):
    path = write_bomb(tmp_path / "bomb.tiff", "Image", tile)
    with pytest.raises(UserError, match=r"found an image of \(3, 60000, 50000\), 9000 million"):
        load_image(path)


def test_an_image_without_rows_is_refused(tmp_path):
    """ImageJ's files have a second description of their size."""
    path = tmp_path / "empty.tiff"
    tifffile.imwrite(path, STRIP.astype(np.uint16), imagej=True, metadata={"axes": "CYX"})
    content, rows = path.read_bytes(), 257
    (kind,) = (kind for kind in (3, 4) if struct.pack("<HHI", rows, kind, 1) in content)
    other = struct.pack("<HHI", 60_000, kind, 1)
    path.write_bytes(content.replace(struct.pack("<HHI", rows, kind, 1), other))
    with pytest.raises(UserError, match=r"found an image of \(3, 0, 130\), expected at least one"):
        load_image(path)


def test_a_tile_may_not_be_larger_than_an_image(tmp_path):
    path = write_bomb(tmp_path / "bomb.tiff", "Tile", (16, 16))
    with pytest.raises(UserError, match=r"found an image of tiles of \(60000, 50000\)"):
        load_image(path)


def test_a_name_that_is_not_text_can_be_written_and_read(tmp_path):
    path = tmp_path / os.fsdecode(b"strip_\xff.png")
    write_strip(path, STRIP)
    assert (load_image(path) == 90).all()


@pytest.mark.parametrize(
    "parse, words, message",
    [
        (inference_onnx.parse_args, "--batch 1025", "expected 1 to 1024: a call needs memory"),
        (inference_onnx.parse_args, "--threads 9999", "expected 1 to 256: each needs a core"),
        (inference_onnx.parse_args, "--input_max 1e308", "up to 1e+12"),
        (inference_onnx.parse_args, "--input_max 5e9", "a camera delivers 32 bits at most"),
        (trainer.parse_args, f"--bs {'9' * 401}", "expected 1 to 1000000"),
        (trainer.parse_args, f"--lr {'9' * 401}", "expected a number above 0"),
        (trainer.parse_args, f"--bs {'9' * 5000}", "invalid whole number value"),
        (
            export_onnx_fullimage.parse_args,
            "--image_size 200 65536",
            "expected 1 to 65535: no TIFF",
        ),
    ],
)
def test_a_number_has_a_limit_and_a_reason(parse, words, message, capsys):
    with pytest.raises(SystemExit):
        parse(words.split())
    assert message in capsys.readouterr().err


def test_an_image_size_is_one_that_could_be_scored():
    words = ["--image_size", "60000", "60000", "--method", "smoothed"]
    with pytest.raises(UserError, match=r"--image_size: found an image of \(60000, 60000\)"):
        export_onnx_fullimage.export(export_onnx_fullimage.parse_args(words))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"img_height": 10**9}, "million values, expected at most 134 million"),
        ({"img_width": 0}, r"found strips of \(200, 0\)"),
        ({"img_width": True}, "found img_width True"),
        ({"input_max": float("inf")}, "found input_max inf"),
        ({"seed": "9" * 10_000}, r"found seed '9+\.\.\.9+', expected"),
    ],
)
def test_a_checkpoint_s_facts_have_limits(changes, message, make_checkpoint):
    with pytest.raises(UserError, match=message):
        load_checkpoint(make_checkpoint(**changes))


@pytest.fixture(scope="module")
def resumable(dataset, tmp_path_factory) -> dict[str, Any]:
    """The content of the last checkpoint of a training of one step."""
    root = without_test(dataset, tmp_path_factory.mktemp("data") / "strips")
    folder = tmp_path_factory.mktemp("run")
    return load_checkpoint(take_one_step(arguments_for(root, folder)))


# Each is of a kind that the setting does not have, or out of its range.
HOSTILE = ("/../../../x", -1, True, None, float("nan"), 10**30, [], {}, [[]], "\0", 0.5)
FLAGS_OF_A_RUN = [
    flag.dest
    for flag in trainer.make_parser()._actions
    if flag.dest not in ("help", "resume", "overwrite", "gpu_id", "checkpoint_path", "version")
    and flag.dest not in ("remote_cache_gb", "prefetch", "mlflow")  # of a process
]


@pytest.fixture
def prepared_with(tmp_path, monkeypatch) -> Callable[[dict[str, Any]], str | None]:
    """The error of a run that is resumed from a checkpoint of some content; None without one."""
    path = tmp_path / "a" / "b" / "c" / "run.pth"

    def prepare(content: dict[str, Any]) -> str | None:
        monkeypatch.setattr(trainer, "load_checkpoint", lambda path: content)
        arguments = trainer.parse_args(["--resume", str(path), "--gpu_id", "-1"])
        try:
            with ExitStack() as resources:
                trainer.prepare(arguments, SINGLE_PROCESS, resources)
        except UserError as error:
            return str(error)
        return None

    return prepare


@pytest.mark.parametrize("name", FLAGS_OF_A_RUN)
def test_a_resumed_setting_is_checked_like_its_flag(name, resumable, prepared_with, tmp_path):
    """None of them ends in a traceback, and none writes anything outside of its folder."""
    refused = 0
    for value in HOSTILE:
        if type(value) is type(resumable[name]) and name in ("training_dataset_path", "teacher"):
            continue  # any text is a path
        error = prepared_with(resumable | {name: value})
        refused += error is not None and "run.pth: found" in error
        written = [path.name for path in tmp_path.rglob("*") if path.is_file()]
        assert all(file.startswith(("BgRemoval_lr", ".")) for file in written)
    assert refused >= len(HOSTILE) - 4, name  # some flags take one or the other of them


@pytest.mark.parametrize(
    "name",
    (*RESUME_KEYS, "strips_sha256", "recipe_settings", "epoch"),
)
def test_a_resumed_run_s_state_is_checked(name, resumable, prepared_with):
    # a tool's loss may be negative
    number = math.nan if name == "loss_sum" else -1
    for value in ("/../../../x", number, [{}], {"state": {}, "param_groups": []}, torch.ones(3)):
        error = prepared_with(resumable | {name: value})
        assert error and "\n" not in error, (name, value)


def test_weights_and_optimizer_of_another_network_are_refused(resumable, prepared_with):
    error = prepared_with(resumable | {"base_channels": 8})
    assert "found weights of another network" in error
    state = resumable["optimizer_state_dict"]
    changed = state["state"] | {0: state["state"][0] | {"exp_avg": torch.zeros(1)}}
    other = {"optimizer_state_dict": state | {"state": changed}}
    assert "does not fit the network" in prepared_with(resumable | other)
    assert prepared_with(resumable) is None


def test_a_small_file_cannot_describe_a_large_network(resumable, make_checkpoint):
    weights = {
        name: torch.zeros(()).expand(tensor.shape)
        for name, tensor in resumable["model_state_dict"].items()
    }
    with pytest.raises(UserError, match="does not hold tensors by name"):
        load_checkpoint(make_checkpoint(model_state_dict=weights))


def changed_model(source: Path, path: Path, change: Callable[[onnx.ModelProto], Any]) -> Path:
    """A copy of an ONNX file that is changed, and has the hash of its graph all the same."""
    model = onnx.load(source)
    change(model)
    onnx.save(model, path)
    write_entries(path, {entry.key: entry.value for entry in model.metadata_props})
    return path


def set_entry(name: str, value: str) -> Callable[[onnx.ModelProto], None]:
    """Changes one of the metadata entries."""

    def change(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key == name:
                entry.value = value

    return change


def other_shape(model: onnx.ModelProto) -> None:
    """Answer half of the heatmap that the file declares."""
    graph, make = model.graph, onnx.helper.make_node
    del graph.node[:], graph.initializer[:]
    for name, values in (("half", np.array([1, 1, 2, 1])), ("value", np.float32([0.5]))):
        graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    graph.node.append(make("Shape", ["input"], ["shape"]))
    graph.node.append(make("Div", ["shape", "half"], ["halved"]))
    graph.node.append(make("Expand", ["value", "halved"], ["output"]))


def loop(model: onnx.ModelProto) -> None:
    """Append a loop."""
    body = onnx.helper.make_graph([], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("Loop", [], [], body=body))


@pytest.mark.parametrize(
    "change, message",
    [
        (set_entry("calibration", "[" * 100_000), "found metadata that are no JSON"),
        (set_entry("calibration", "9" * 100_000), "found metadata that are no JSON"),
        (set_entry("calibration", " " * 2**25), "bytes, expected at most"),
        (set_entry("schema_version", "9" * 5000), "found schema_version '9"),
        (set_entry("input_max", "1e300"), "found input_max '1e300'"),
        (set_entry("strip_channels", "9" * 5000 + " 1 2"), r"found channels \['9"),
        (set_entry("strip_channels", "0 1"), r"found channels \[0, 1\]"),
        (lambda model: model.graph.ClearField("output"), "found inputs and outputs"),
        (other_shape, r"found an answer of \(1, 3, 100, 150\), expected \(1, 3, 200, 150\)"),
        (loop, "found the operation Loop, which may never end"),
    ],
    ids=[
        "nested",
        "digits",
        "enormous",
        "version",
        "range",
        "long order",
        "short order",
        "no output",
        "shape",
        "loop",
    ],
)
def test_an_onnx_file_is_checked(change, message, onnx_model, tmp_path):
    path = changed_model(onnx_model, tmp_path / "model.onnx", change)
    with pytest.raises(UserError, match=f"model.onnx: .*{message}|{message}"):
        OnnxPredictor(path)(np.zeros((3, *SMALL_SIZE), np.float32))


def test_metadata_that_are_no_text_are_one_line(onnx_model, tmp_path):
    path = tmp_path / "model.onnx"
    content = onnx_model.read_bytes()
    path.write_bytes(content.replace(b"Background Removal", b"\xff" * 18))
    with pytest.raises(UserError, match=r"model.onnx: found metadata that are not UTF-8"):
        OnnxPredictor(path)


def test_a_flipped_bit_is_noticed_by_the_runner_and_by_skip_existing(onnx_model, tmp_path):
    path = tmp_path / "model.onnx"
    content = bytearray(onnx_model.read_bytes())
    largest = max(onnx.load(onnx_model).graph.initializer, key=lambda tensor: len(tensor.raw_data))
    content[bytes(content).index(largest.raw_data[:64]) + 30] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model.onnx: found a graph or weights that changed"):
        OnnxPredictor(path)
    entries = export_onnx_fullimage.read_entries(onnx_model)
    assert export_onnx_fullimage.is_up_to_date(onnx_model, entries)
    assert not export_onnx_fullimage.is_up_to_date(path, entries)


def test_a_file_of_earlier_code_has_no_hash_and_is_exported_anew(onnx_model, tmp_path):
    model = onnx.load(onnx_model)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    del entries["graph_sha256"]
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, tmp_path / "model.onnx")
    OnnxPredictor(tmp_path / "model.onnx")
    assert not export_onnx_fullimage.is_up_to_date(tmp_path / "model.onnx", entries)


LAYOUTS = {
    "planes": ((3, 150, 140), {}),
    "pixels": ((150, 140, 3), {"photometric": "rgb"}),
    "four planes": ((4, 150, 140), {}),
    "four channels in a pixel": ((150, 140, 4), {"photometric": "rgb"}),
}


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_crop_is_read_from_the_file_as_it_lies_there(layout, byteorder, strip_file):
    shape, options = LAYOUTS[layout]
    pixels = np.random.default_rng(0).integers(0, 999, shape).astype(np.uint16)
    path = strip_file(pixels, byteorder=byteorder, **options)
    (strip,) = [OpenStrips([path], 0)[0]]
    planes = pixels[:3] if shape[2] == 140 and shape[0] < 5 else np.moveaxis(pixels, 2, 0)[:3]
    assert isinstance(strip, StripInFile) and strip.shape == (3, 150, 140)
    assert np.array_equal(strip[:, 20:148, 5:133], planes[:, 20:148, 5:133])
    assert np.array_equal(strip[:, 140:300, 100:], planes[:, 140:300, 100:])
    assert np.array_equal(np.array(strip), planes)


def patches_of(paths: list[Path]) -> StripPatches:
    return StripPatches(paths, (150, 140), 128, ClassicRecipe((3, 8)), cache_size=len(paths))


def test_a_strip_that_is_cut_short_under_a_training_is_named(strip_file):
    """With a memory map this would be a bus error, which no process survives."""
    path = strip_file(np.full((3, 150, 140), 90, np.float32))
    samples = patches_of([path])
    assert samples[0]["three_channel_input"].shape == (3, 128, 128)
    os.truncate(path, 4096)
    with pytest.raises(UserError, match=r"strip.tiff: found a file that has become shorter"):
        samples[3]


def test_a_strip_of_another_size_under_a_training_is_named(strip_file):
    paths = [
        strip_file(np.full((3, 150, 140), 90, np.uint8), name, compression="zlib")
        for name in ("a.tiff", "b.tiff")
    ]
    samples = patches_of(paths)
    strip_file(np.full((3, 160, 140), 90, np.uint8), "b.tiff", compression="zlib")
    with pytest.raises(UserError, match=r"b.tiff: found \(160, 140\) .*expected \(150, 140\)"):
        samples[4]


def score(folder: Path, output: Path) -> int:
    """Score a folder without a model, in this process; the exit code."""
    words = ["--method", "smoothed", "--threshold", "1", "--gpu_id", "-1"]
    words += ["--test_path", str(folder), "--output_dir", str(output)]
    return run_command(lambda: inference_pytorch.infer(inference_pytorch.parse_args(words)))


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_name_has_results_that_lie_in_the_output_folder(strip_file, tmp_path):
    names = ["n" * 250 + ".tiff", "n" * 249 + "m.tiff", "=1+1.tiff", "é" * 120 + ".tiff"]
    for name in names:
        strip_file(STRIP, f"strips/good/{name}")
    assert score(tmp_path / "strips", tmp_path / "out") == 0
    written = files_in(tmp_path)
    results = {path for path in written if path.endswith(("_heatmap.tiff", "_panels.png"))}
    assert len(results) == 2 * len(names)
    assert all(path.startswith(("strips/good/", "out/")) for path in written)
    rows = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert any(row.startswith("good/=1+1") for row in rows)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("_panels.png") >= len(names)


def test_a_name_of_dots_stays_where_it_belongs():
    for name in ("..tiff", "...tiff", ".tiff"):
        path = output_folder.strip_file(Path("out"), Path("good") / name, "_heatmap.tiff")
        assert path.parent == Path("out/good") and path.name.endswith("_heatmap.tiff")


def test_the_results_of_an_earlier_run_are_removed_and_foreign_files_never(strip_file, tmp_path):
    out = tmp_path / "out"
    for name in ("a", "b"):
        strip_file(STRIP, f"one/{name}/strip_{name}.tiff")
        strip_file(STRIP, f"two/{name}/strip_{name}.tiff")
    strip_file(STRIP, "one/gone/strip_gone.tiff")
    strip_file(STRIP, f"one/gone/{'n' * 250}.tiff")
    assert score(tmp_path / "one", out) == 0
    foreign = [out / "gone" / "mine_heatmap.tiff", out / "notes.txt", out / "a" / "x.1.partial"]
    for path in foreign:
        path.write_text("mine")
    # what a kill leaves, of a short name and of one that was shortened
    (out / "gone" / "strip_gone_panels.png.4711.partial").write_text("")
    (long,) = (path for path in (out / "gone").glob("n*_panels.png"))
    (out / "gone" / fitting_name(long.name, ".4711.partial")).write_text("")
    assert score(tmp_path / "two", out) == 0
    left = files_in(out)
    assert {path.relative_to(out).as_posix() for path in foreign} <= left
    assert {path for path in left if "gone" in path} == {"gone/mine_heatmap.tiff"}
    assert "b/strip_b_heatmap.tiff" in left


def test_a_list_of_results_cannot_name_files_elsewhere(strip_file, tmp_path):
    strip_file(STRIP, "strips/good/a.tiff")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.txt").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "link").symlink_to(elsewhere)
    names = ["../elsewhere/x.txt", str(elsewhere / "x.txt"), "link/x.txt", 7, "", "."]
    (out / ".results.json").write_text(json.dumps(names))
    assert score(tmp_path / "strips", out) == 0 and (elsewhere / "x.txt").exists()


def test_two_scorings_do_not_write_into_one_folder_at_once(strip_file, tmp_path, capsys):
    strip_file(STRIP, "strips/good/a.tiff")
    out = tmp_path / "out"
    out.mkdir()
    with output_folder.results_in(out, [], []):
        assert score(tmp_path / "strips", out) == 1
    assert "out: found another scoring at work there" in last_line(capsys)
    assert score(tmp_path / "strips", out) == 0


def test_a_cell_is_no_formula(tmp_path):
    write_table(
        tmp_path / "t.csv", ("file",), [["=cmd|' /C calc'!A0"], ["-0.5"], ["@x"], [-3], ["a=b"]]
    )
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "file",
        "'=cmd|' /C calc'!A0",
        "-0.5",
        "'@x",
        "-3",
        "a=b",
    ]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / LOCK).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(UserError, match="cannot be written"), only_training_in(folder):
        pass
    (folder / LOCK).unlink()
    os.mkfifo(folder / LOCK)
    with pytest.raises(UserError, match="expected a lock or nothing"), only_training_in(folder):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_what_a_killed_process_left_is_removed_but_nothing_of_a_running_one(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-S", "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
    )
    names = [
        f"run.pth.{int(dead.stdout)}.partial",
        f"run.pth.{os.getpid()}.partial",
        f"other.pth.{int(dead.stdout)}.partial",
        "run.pth.x.partial",
    ]
    for name in names:
        (tmp_path / name).write_text("")
    remove_partial_files(tmp_path, "run*")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    (tmp_path / f"demo.{int(dead.stdout)}.partial" / "train").mkdir(parents=True)
    with new_folder(tmp_path / "demo"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["demo", *names[1:]])


@pytest.fixture
def clone(tmp_path) -> Path:
    """A folder with environment.sh and one with a python3 that makes environments at once."""
    folder, tools = tmp_path / "a clone", tmp_path / "tools"
    for name in (folder, tools):
        name.mkdir()
    for name in ("environment.sh", "requirements.txt"):
        shutil.copy(ROOT / name, folder / name)
    python = tools / "python3"
    # asked for a version it is new enough; `-m venv FOLDER` puts itself there
    python.write_text(
        '#!/bin/sh\ncase "$1 $2" in\n"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;\n'
        '"-m pip") echo "pip $3" >>"$LOG" ;;\nesac\n'
    )
    python.chmod(0o755)
    return folder


def set_up(clone: Path) -> subprocess.CompletedProcess:
    """What every wrapper begins with."""
    tools = clone.parent / "tools"
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "LOG": str(clone.parent / "log")}
    words = ["bash", "-c", 'set -euo pipefail; source "$1"', "bash", clone / "environment.sh"]
    return subprocess.run(words, env=environment, capture_output=True, text=True)


def test_an_installation_that_was_interrupted_is_begun_anew(clone):
    """Ctrl-C leaves an interpreter without pip, which had been taken for a whole environment."""
    broken = clone / ".venv" / "bin" / "python"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    done = set_up(clone)
    assert done.returncode == 0, done.stderr
    assert "found no pip" in done.stderr and (clone / ".venv.old" / "bin" / "python").exists()
    assert (clone.parent / "log").read_text().splitlines()[-1] == "pip install"
    assert (clone / ".venv" / "installed-requirements.txt").exists()
    assert set_up(clone).stderr == ""  # nothing is left to do


def test_the_lock_of_the_installation_does_not_follow_a_link(clone):
    (clone / "mine.txt").write_text("mine")
    (clone / ".setup.lock").symlink_to(clone / "mine.txt")
    done = set_up(clone)
    assert done.returncode == 1 and ".setup.lock: found a link" in done.stderr
    assert (clone / "mine.txt").read_text() == "mine"


def test_without_shared_memory_samples_are_made_in_this_process(strip_file, monkeypatch, capsys):
    def refused() -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(multiprocessing, "Lock", refused)
    has_shared_memory.cache_clear()
    try:
        path = strip_file(np.full((3, 150, 140), 90, np.uint8), compression="zlib")
        loader = TrainingLoader(patches_of([path]), SINGLE_PROCESS, 2, 1, seed=0, num_workers=2)
        assert sum(len(batches) for batches in loader.steps(0, 0)) == 2
    finally:
        has_shared_memory.cache_clear()
    assert "warning: /dev/shm cannot be written" in last_line(capsys)
