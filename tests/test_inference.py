import csv
import functools
import json
import os
import shutil

import cv2
import numpy as np
import onnx
import pytest
import tifffile
import torch

import inference_onnx
import inference_pytorch
from benchmarks.command_line import FIRST_RECIPE
from common.errors import UserError, run_command
from data.folder import list_strips
from deploy.onnx_file import GRAPH_HASH
from evaluation.evaluate import evaluate
from tests import processes
from tests.conftest import ROOT, SMALL_SIZE, export_file, run
from training.checkpoint import FIRST_LAYER, load_checkpoint


@pytest.fixture(scope="module")
def both_outputs(dataset, tmp_path_factory):
    """Both inference commands on one data set, as a user starts them after a training."""
    folder = tmp_path_factory.mktemp("inference")
    flags = [
        *FIRST_RECIPE,
        "--training_dataset_path",
        dataset / "train" / "good",
        "--base_channels",
        "4",
        "--bs",
        "4",
        "--epochs",
        "2",
    ]
    commands = [
        ("trainer.py", *flags, "--checkpoint_path", "checkpoints"),
        ("export_onnx_fullimage.py",),
        ("inference_pytorch.py",),
        ("inference_onnx.py",),
    ]
    done = [run(*command, cwd=folder) for command in commands]
    assert [command.returncode for command in done] == [0, 0, 0, 0], [
        command.stderr for command in done
    ]
    return folder, done


def test_both_commands_agree_on_every_heatmap(both_outputs, dataset):
    folder, _ = both_outputs
    for strip in list_strips(dataset / "test"):
        name = strip.relative.with_name(f"{strip.path.stem}_heatmap.tiff")
        torch_heatmap, onnx_heatmap = (
            tifffile.imread(folder / "output" / kind / name) for kind in ("pytorch", "onnx")
        )
        assert torch_heatmap.dtype == np.float32 and torch_heatmap.shape == SMALL_SIZE
        assert np.abs(torch_heatmap - onnx_heatmap).max() < 1e-4


def test_both_keep_the_structure_and_write_the_same_files(both_outputs, dataset):
    folder, done = both_outputs
    files = [
        {
            path.relative_to(folder / "output" / kind).as_posix()
            for path in (folder / "output" / kind).rglob("*.*")
        }
        for kind in ("pytorch", "onnx")
    ]
    assert files[0] == files[1]
    strips = [strip.relative.with_suffix("").as_posix() for strip in list_strips(dataset / "test")]
    assert files[0] == {
        ".results.json",
        "scores.csv",
        "channels.csv",
        "detections.csv",
        "detections.json",
        "metrics.json",
        "report.html",
    } | {f"{name}_{end}" for name in strips for end in ("heatmap.tiff", "panels.png")}
    rows = list(csv.DictReader((folder / "output" / "onnx" / "scores.csv").open()))
    assert (rows[0]["file"], rows[0]["kind"]) == ("bright_spots/strip_2.tiff", "bright_spots")
    heatmap = tifffile.imread(folder / "output" / "onnx" / "bright_spots" / "strip_2_heatmap.tiff")
    assert float(rows[0]["score"]) == pytest.approx(heatmap.max(), rel=1e-6)
    assert "4 of 4 strips scored" in done[2].stdout
    # the threshold of a network of one epoch may not hold, and then both say so
    for command in done[2:]:
        assert all("does not fit these strips" in line for line in command.stderr.splitlines())


def test_the_panels_are_seven_strips_side_by_side(both_outputs):
    folder, _ = both_outputs
    picture = cv2.imread(str(folder / "output" / "onnx" / "good" / "strip_0_panels.png"))
    assert (
        picture.shape[1] > 7 * SMALL_SIZE[1]
        and picture.shape[0] > SMALL_SIZE[0]
        and picture.std() > 10
    )


def test_figures_are_written_and_printed(both_outputs):
    folder, done = both_outputs
    figures = json.loads((folder / "output" / "pytorch" / "metrics.json").read_text())
    for name in (
        "image_auroc",
        "image_average_precision",
        "pixel_auroc",
        "pixel_average_precision",
    ):
        assert 0 <= figures[name] <= 1
        assert f"{figures[name]:.4f}" in next(
            line for line in done[2].stdout.splitlines() if line.startswith(name.replace("_", " "))
        )


def test_strips_without_kinds_or_masks_get_scores_and_no_figures(
    make_checkpoint, dataset, tmp_path
):
    shutil.copytree(dataset / "test" / "good", tmp_path / "strips" / "deep" / "er")
    shutil.copy(dataset / "test" / "good" / "strip_0.tiff", tmp_path / "strips")
    done = run(
        "inference_pytorch.py",
        "--model_path",
        make_checkpoint(),
        "--test_path",
        tmp_path / "strips",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("not defined: needs") == 9
    assert (tmp_path / "output" / "pytorch" / "deep" / "er" / "strip_1_heatmap.tiff").is_file()


def test_without_masks_only_the_image_figures_are_left(make_checkpoint, dataset, tmp_path):
    for given, defined in (
        (("--use_ground_truth_mask", "False"), 2),
        (("--use_ground_truth_mask",), 9),
    ):
        done = run(
            "inference_pytorch.py",
            "--model_path",
            make_checkpoint(),
            "--test_path",
            dataset / "test",
            *given,
            cwd=tmp_path,
        )
        assert done.returncode == 0 and done.stdout.count("not defined") == 9 - defined


def test_one_bad_file_among_many(make_checkpoint, onnx_model, dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "data")
    test = tmp_path / "data" / "test"
    (test / "good" / "broken.tiff").write_bytes(
        (test / "good" / "strip_0.tiff").read_bytes()[:3000]
    )
    tifffile.imwrite(
        test / "good" / "large.tiff",
        np.full((3, 300, 200), 90, np.float32),
        photometric="minisblack",
    )
    cv2.imwrite(
        str(tmp_path / "data" / "ground_truth" / "bright_spots" / "strip_2_mask.png"),
        np.zeros((20, 20), np.uint8),
    )
    for script, model in (
        ("inference_pytorch.py", make_checkpoint()),
        ("inference_onnx.py", onnx_model),
    ):
        done = run(
            script,
            "--model_path",
            model,
            "--test_path",
            test,
            "--output_dir",
            tmp_path / "out",
            cwd=tmp_path,
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert [line.split(": ")[1].split("/")[-1] for line in done.stderr.splitlines()] == [
            "strip_2_mask.png",
            "broken.tiff",
            "large.tiff",
        ]
        assert "3 of 6 strips scored" in done.stdout
        problems = json.loads((tmp_path / "out" / "metrics.json").read_text())["problems"]
        assert len(problems) == 3 and (tmp_path / "out" / "good" / "strip_1_panels.png").is_file()


def test_names_that_are_no_text(make_checkpoint, strip_file, tmp_path):
    path = strip_file(np.full((3, *SMALL_SIZE), 90, np.float32), "strips/條 帶, 1.tiff")
    path.rename(path.with_name(os.fsdecode(b"a\xff.tiff")))
    strip_file(np.full((3, *SMALL_SIZE), 90, np.float32), "strips/條 帶, 1.tiff")
    done = run(
        "inference_pytorch.py",
        "--model_path",
        make_checkpoint(),
        "--test_path",
        tmp_path / "strips",
        cwd=tmp_path,
    )
    assert done.returncode == 0 and "2 of 2 strips scored" in done.stdout, done.stderr
    assert (tmp_path / "output" / "pytorch" / "scores.csv").read_bytes().count(b"a\xff.tiff") == 1


def test_outputs_that_cannot_be(make_checkpoint, dataset, tmp_path):
    (tmp_path / "afile").touch()
    shutil.copytree(dataset / "test", tmp_path / "strips")
    for output, complaint in (
        ("afile", "cannot be written"),
        ("strips/out", "expected one elsewhere"),
    ):
        flags = ("--model_path", make_checkpoint(), "--test_path", "strips", "--output_dir", output)
        done = run("inference_pytorch.py", *flags, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1) and complaint in done.stderr


def test_a_reader_that_goes_away_is_no_error_of_ours(make_checkpoint, dataset, tmp_path):
    words = ("--model_path", make_checkpoint(), "--test_path", dataset / "test")
    process = processes.start(ROOT / "inference_pytorch.py", *words, folder=tmp_path)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 1


def test_a_model_for_another_size_says_so(onnx_model, tmp_path, strip_file):
    strip_file(np.full((3, 640, 640), 90, np.float32), "test/good/square.tiff")
    done = run(
        "inference_onnx.py",
        "--model_path",
        onnx_model,
        "--test_path",
        tmp_path / "test",
        cwd=tmp_path,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "square.tiff: found (640, 640) (height, width), expected (200, 150)" in done.stderr
    assert not (tmp_path / "output").exists()


def test_the_camera_s_range_travels_with_the_model(make_checkpoint, strip_file, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (3, *SMALL_SIZE)).astype(np.uint16)
    strip_file(pixels, "strips/strip.tiff")
    checkpoint = make_checkpoint(input_max=4095.0)
    export_file(checkpoint, tmp_path / "onnx_models")
    for script, model in (
        ("inference_pytorch.py", checkpoint),
        ("inference_onnx.py", tmp_path / "onnx_models"),
    ):
        done = run(script, "--model_path", model, "--test_path", tmp_path / "strips", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    eight_bits = make_checkpoint()
    done = run(
        "inference_pytorch.py",
        "--model_path",
        eight_bits,
        "--test_path",
        tmp_path / "strips",
        cwd=tmp_path,
    )
    assert done.returncode == 1 and "--input_max 4095" in done.stderr


def test_png_strips(make_checkpoint, dataset, tmp_path):
    (tmp_path / "strips").mkdir()
    for number in range(2):
        pixels = tifffile.imread(dataset / "test" / "good" / f"strip_{number}.tiff")
        cv2.imwrite(
            str(tmp_path / "strips" / f"{number}.png"), np.moveaxis(pixels, 0, 2).astype(np.uint8)
        )
    done = run(
        "inference_pytorch.py",
        "--model_path",
        make_checkpoint(),
        "--test_path",
        tmp_path / "strips",
        "--img_format",
        "png_jpg",
        cwd=tmp_path,
    )
    assert done.returncode == 0 and "2 of 2 strips scored" in done.stdout


def test_a_file_that_is_no_checkpoint(make_checkpoint, tmp_path, dataset, capsys):
    whole = make_checkpoint().read_bytes()
    noise = [np.random.default_rng(seed).bytes(seed + 1) for seed in range(300)]
    for content in [
        b"no checkpoint",
        b"some notes",
        b"epoch: 3",
        b"a",
        b"",
        whole[: len(whole) // 2],
        *noise,
    ]:
        (tmp_path / "model.pth").write_bytes(content)
        with pytest.raises(UserError, match=r"model\.pth: found no readable checkpoint"):
            load_checkpoint(tmp_path / "model.pth")
    for script, flag in (
        ("inference_pytorch.py", "--model_path"),
        ("export_onnx_fullimage.py", "--checkpoint_path"),
    ):
        done = run(script, flag, "model.pth", "--test_path", dataset / "test", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (
            1,
            1,
        ) and "model.pth: found no readable checkpoint" in done.stderr


def test_checkpoints_of_other_networks_are_refused_by_name(
    make_checkpoint, make_network, dataset, tmp_path, capsys
):
    good = torch.load(make_checkpoint(), weights_only=True)
    weights = good["model_state_dict"]
    renamed = {
        name.replace("encoder", "down_blocks").replace("head", "out"): tensor
        for name, tensor in weights.items()
    }
    cases = {
        "named.pth": (
            good | {"network": "Autoencoder"},
            "the network 'Autoencoder', expected one of SegmentationNetwork, Mobile",
        ),
        "earlier.pth": (
            good | {"model_state_dict": renamed},
            "begin with 'down_blocks.0.0.0.weight'",
        ),
        "partly.pth": (
            good | {"model_state_dict": dict(list(weights.items())[:4])},
            "do not fit the SegmentationNetwork of this",
        ),
        "empty.pth": (good | {"model_state_dict": None}, "does not hold tensors by name"),
        "flat.pth": (
            good | {"model_state_dict": {FIRST_LAYER: torch.zeros(())}},
            "do not fit the SegmentationNetwork of this",
        ),
        "lasts.pth": (
            good | {"model_state_dict": dict(list(weights.items())[-4:])},
            "begin with 'decoder.",
        ),
        "listed.pth": (good | {"image_type": ["strip"]}, "image_type ['strip']"),
        "ranged.pth": (good | {"input_max": -1}, "input_max -1"),
        "bare.pth": (weights, "without model_state_dict, img_height"),
        "list.pth": ([1, 2, 3], "without model_state_dict"),
        "round.pth": (good | {"image_type": "round"}, "image type 'round', expected one of strip"),
        "whole_module.pth": (make_network(), "needs pickled code"),
    }
    for name, (content, complaint) in cases.items():
        torch.save(content, tmp_path / name)
        arguments = inference_pytorch.parse_args(
            ["--model_path", str(tmp_path / name), "--test_path", str(dataset / "test")]
        )
        assert run_command(functools.partial(inference_pytorch.infer, arguments)) == 1
        printed = capsys.readouterr().err
        assert (
            printed.startswith(f"error: {tmp_path / name}: found")
            and complaint in printed
            and printed.count("\n") == 1
        )


def test_models_that_are_missing_or_no_onnx_file(onnx_model, dataset, tmp_path, capsys):
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "half.onnx").write_bytes(onnx_model.read_bytes()[:5000])
    node = onnx.helper.make_node("Relu", ["a"], ["b"])
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2]) for name in "ab"
    ]
    graph = onnx.helper.make_graph([node], "other", values[:1], values[1:])
    onnx.save(
        onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
        ),
        tmp_path / "other.onnx",
    )
    node = onnx.helper.make_node("Identity", ["input"], ["output"])
    for name, size in (("grey.onnx", ["b", 1, 200, 150]), ("open.onnx", ["b", 3, "h", "w"])):
        values = [
            onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, size)
            for value in ("input", "output")
        ]
        graph = onnx.helper.make_graph([node], "foreign", values[:1], values[1:])
        foreign = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
        )
        foreign.metadata_props.extend(
            entry for entry in onnx.load(onnx_model).metadata_props if entry.key != GRAPH_HASH
        )
        onnx.save(foreign, tmp_path / name)
    silent = onnx.load(onnx_model)
    del silent.metadata_props[:]
    onnx.save(silent, tmp_path / "silent.onnx")
    (tmp_path / "empty").mkdir()
    cases = {
        "missing.onnx": "found no such file",
        "text.onnx": "found no model that ONNX Runtime can load",
        "half.onnx": "found no model that ONNX Runtime can load",
        "other.onnx": "found no schema_version in its metadata",
        "grey.onnx": "expected a file of export_onnx_fullimage.py",
        "open.onnx": "expected a file of export_onnx_fullimage.py",
        "silent.onnx": "found no schema_version in its metadata",
        "empty": "found no *.onnx",
    }
    for name, complaint in cases.items():
        arguments = inference_onnx.parse_args(
            ["--model_path", str(tmp_path / name), "--test_path", str(dataset / "test")]
        )
        assert run_command(functools.partial(inference_onnx.infer, arguments)) == 1
        printed = capsys.readouterr().err
        assert (
            printed.startswith(f"error: {tmp_path / name}: ")
            and complaint in printed
            and printed.count("\n") == 1
        )


def test_the_image_type_must_be_the_model_s(make_checkpoint, onnx_model, dataset, tmp_path):
    for script, model in (
        ("inference_pytorch.py", make_checkpoint()),
        ("inference_onnx.py", onnx_model),
    ):
        done = run(
            script,
            "--model_path",
            model,
            "--test_path",
            dataset / "test",
            "--image_type",
            "square",
            cwd=tmp_path,
        )
        assert (
            done.returncode == 1
            and "found a model of --image_type strip, expected square" in done.stderr
        )


def test_a_heatmap_that_is_not_finite_is_a_problem_of_its_strip(dataset):
    calls = []

    def predictor(image):
        calls.append(image.shape)
        return np.full(image.shape[1:], np.nan if len(calls) == 2 else 0.5, np.float32)

    result = evaluate(predictor, list_strips(dataset / "test"))
    assert (
        len(result.results) == 3
        and len(result.problems) == 1
        and "found a heatmap from nan to nan" in result.problems[0]
    )
