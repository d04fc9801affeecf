"""What files hold, as opposed to whether they can be read: scale, channel order, JPG, photos,
orientation. Files as cameras and image programs write them, read by the commands.
"""

import json
import re
import sys

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

import export_onnx_fullimage
import inference_onnx
import inference_pytorch
import trainer
from benchmarks.suite.levels import AMOUNTS
from benchmarks.suite.strips import make_good_strip
from common.errors import UserError, run_command
from common.notes import warn
from data.folder import StripFile, list_strips
from data.image_files import load_and_count, load_image
from data.masks import load_mask
from data.plausibility import LEAST_CORRELATION, content_warnings, pattern_correlation
from data.splits import find_dataset
from data.value_range import ValueRange, fitting_input_max, range_warning
from data.verify import VerifiedFiles, verify_strips
from evaluation.thresholds import calibrate
from prepare_dataset import parse_args as parse_prepare
from prepare_dataset import prepare
from reporting import score_folder
from tests.conftest import arguments_for
from training.checkpoint import load_checkpoint, model_info

SIZE = (160, 136)
CALIBRATION = calibrate([np.array([0.9, 0.3])] * 3)
SPOTS = ((40, 40), (90, 100), (120, 70))


def make(seed, step=0.0):
    """(3, H, W) grey levels: three shots of one pattern; spots of `step` in Target alone."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    pattern = 110 + 40 * np.sin(x / 7) * np.cos(y / 11)
    image = pattern + generator.normal(0, 2, (3, *SIZE))
    for row, column in SPOTS:
        image[0] += step * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 2.9)
    return np.clip(np.rint(image), 0, 255).astype(np.float32)


def mask_of_spots():
    mask = np.zeros(SIZE, np.uint8)
    for row, column in SPOTS:
        mask[row - 2 : row + 3, column - 2 : column + 3] = 255
    return mask


def channels_last(image):
    return np.ascontiguousarray(np.moveaxis(image, 0, 2)).astype(np.uint8)


def write_folder(root, write, suffix, count=2):
    """test/good and test/spots with masks, `write(path, (H, W, 3) uint8)` writes each."""
    for kind, step in (("good", 0.0), ("spots", 70.0)):
        (root / "test" / kind).mkdir(parents=True)
        for number in range(count):
            path = root / "test" / kind / f"{number}{suffix}"
            write(path, channels_last(make(number + 10 * (step > 0), step)))
    (root / "ground_truth" / "spots").mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(root / f"ground_truth/spots/{number}_mask.png"), mask_of_spots())
    return root / "test"


@pytest.fixture
def score(tmp_path, capsys, monkeypatch):
    """Runs the scoring command without a model; gives its exit code, its text and metrics.json."""
    monkeypatch.setattr(score_folder, "make_baselines", lambda sigmas, device: {})  # they take long

    def run_it(folder, *flags):
        output = tmp_path / "output"
        words = ["--method", "smoothed", "--threshold", "0.05", "--gpu_id", "-1", *flags]
        words += ["--test_path", folder, "--output_dir", output]
        arguments = inference_pytorch.parse_args(list(map(str, words)))
        code = run_command(lambda: inference_pytorch.infer(arguments))
        printed = capsys.readouterr()
        path = output / "metrics.json"
        return code, printed.out + printed.err, json.loads(path.read_text()) if code == 0 else None

    return run_it


# scale ------------------------------------------------------------------------------------------

BASE = make(0)
DARKEST, BRIGHTEST = np.equal(BASE, BASE.min()), np.equal(BASE, BASE.max())
DASH = "\N{EN DASH}"


@pytest.mark.parametrize(
    "pixels, clipped",
    [
        (np.where(DARKEST, -0.3, BASE).astype(np.float32), DARKEST.sum()),
        (np.where(BRIGHTEST, 255.2, BASE).astype(np.float32), BRIGHTEST.sum()),
    ],
)
def test_a_few_values_just_outside_are_clipped_and_counted(strip_file, pixels, clipped):
    path = strip_file(pixels)
    image, count = load_and_count(path)
    assert count == clipped and np.array_equal(image, np.clip(pixels, 0, 255))
    values = verify_strips(list_strips(path.parent), 255).values
    assert f"; {clipped} outside were clipped" in values.describe(255)


def test_many_values_outside_are_refused_without_advice_for_another_camera(strip_file):
    many = np.where(BASE > 140, 256.5, BASE).astype(np.float32)
    with pytest.raises(UserError, match=r"% of them above 255.*--input_max 257, "):
        load_image(strip_file(many))
    with pytest.raises(UserError, match=r"down to -7, .*% of them below 0"):
        load_image(strip_file(np.where(BASE < 90, -7, BASE).astype(np.float32)))


def test_int16_is_read(strip_file):
    pixels = (BASE * 16).astype(np.int16)
    pixels[0, 0, 0] = -3
    image, count = load_and_count(strip_file(pixels), 4095)
    assert count == 1 and np.allclose(image, np.clip(pixels, 0, None) * (255 / 4095), atol=1e-4)


@pytest.mark.parametrize(
    "pixels, input_max, advice",
    [
        ((BASE / BASE.max() * 1.25).astype(np.float32), 255, None),
        ((BASE / 255).astype(np.float32), 255, 1),
        ((BASE * 16).astype(np.uint16), 65535, 4095),
        ((BASE * 4).astype(np.int16), 16383, 1023),
        ((BASE / 10).astype(np.uint8), 255, None),
    ],
)
def test_a_set_of_another_scale_is_refused_and_the_flag_that_is_named_fits(
    strip_file, pixels, input_max, advice, capsys
):
    """Where no usual camera fits, the flag is the largest value itself."""
    folder = strip_file(pixels, "train/good/a.tiff").parent
    with pytest.raises(UserError, match=f"good: found no value above .*{input_max}") as refused:
        find_dataset(folder, folder.parent, 128, "tiff", input_max, "classic")
    flag = float(re.search(r"--input_max ([\d.]+)", str(refused.value))[1])
    assert flag == pytest.approx(advice or pixels.max(), rel=0.01)
    dataset = find_dataset(folder, folder.parent, 128, "tiff", flag, "classic")
    assert dataset.values.highest > 100
    assert f" of 0{DASH}{flag:g}, median " in capsys.readouterr().out


def test_the_flag_that_fits_is_a_usual_one_where_there_is_one():
    found = [fitting_input_max(value) for value in (0.9, 1.25, 30, 255, 300, 3900, 60000)]
    assert found == [1, 1.25, 30, 255, 1023, 4095, 65535]


def test_scoring_prints_the_range_and_refuses_another_scale(tmp_path, score):
    folder = write_folder(tmp_path, lambda path, image: tifffile.imwrite(path, image), ".tif")
    code, text, metrics = score(folder)
    assert code == 0 and re.search(rf"^values \d+ to \d+ of 0{DASH}255, median 1\d\d$", text, re.M)
    assert metrics["warnings"] == [] and metrics["at_threshold"]["recall"] == 1
    code, text, _ = score(folder, "--input_max", 4095)
    assert code == 1 and "less than an eighth of 0 to 4095" in text and "--input_max 255" in text


def test_a_model_keeps_the_range_and_the_order_of_its_training(tmp_path, monkeypatch, capsys):
    (tmp_path / "train" / "good").mkdir(parents=True)
    for number in range(2):
        image = channels_last(make(number)).astype(np.uint16) * 16
        cv2.imwrite(str(tmp_path / "train" / "good" / f"{number}.tif"), image)
    monkeypatch.setattr(trainer, "measure", lambda *arguments: {"calibration": CALIBRATION})
    flags = ("--epochs", 1, "--input_max", 4095, "--channels", "ref2,ref1,target")
    best = trainer.train(trainer.parse_args(arguments_for(tmp_path, tmp_path / "out", *flags)))
    content = load_checkpoint(best)
    low, median, high = content["value_range"]
    assert 50 < low < 80 < 100 < median < 115 < 140 < high < 165
    assert content["channels"] == [2, 1, 0] and model_info(content).order == (2, 1, 0)
    assert f"of 0{DASH}4095, median 17" in capsys.readouterr().out


def test_a_folder_of_another_range_than_the_training_voids_the_verdicts(
    tmp_path, score, write_checkpoint
):
    facts = {"input_max": 4095, "value_range": [65.0, 110.0, 155.0], "channels": [2, 1, 0]}
    best = write_checkpoint(tmp_path / "model_best.pth", SIZE, **facts)
    for name, light in (("same", 16), ("dark", 1.6)):
        (tmp_path / name).mkdir()
        image = (channels_last(make(1)).astype(np.float32) * light).astype(np.uint16)
        image[0, 0, 0] = 4095  # a hot pixel, without which the dark one would be refused
        cv2.imwrite(str(tmp_path / name / "strip.tif"), image)
    model = ("--method", "net", "--model_path", best)
    code, text, metrics = score(tmp_path / "dark", *model)
    assert code == 0 and "warning: found values of " in text and "the scale differs" in text
    assert len(metrics["warnings"]) == 1
    report = (tmp_path / "output" / "report.html").read_text()
    assert 'class="box red"' in report and "the scale differs" in report
    code, text, metrics = score(tmp_path / "same", *model)
    assert code == 0 and metrics["warnings"] == [] and "the scale differs" not in text
    with pytest.raises(UserError, match=r"found value_range .*, expected what a training"):
        load_checkpoint(write_checkpoint(tmp_path / "bad.pth", SIZE, value_range=[3.0, 1.0, 2.0]))
    with pytest.raises(UserError, match=r"found channels .*, expected the numbers of Target"):
        load_checkpoint(write_checkpoint(tmp_path / "bad.pth", SIZE, channels=[0, 0, 1]))


def test_ranges_overlap_or_do_not():
    folder = ValueRange(0, 3, 96, 221, 255)
    assert range_warning(folder, None) is None and range_warning(folder, [3.0, 90.0, 200.0]) is None
    assert range_warning(folder, [0.0, 6.0, 14.0]) and range_warning(folder, [225.0, 230.0, 240.0])


def test_serious_warnings_are_red_on_a_terminal_alone(capsys, monkeypatch):
    warn("plain", is_serious=True)
    assert capsys.readouterr().err == "warning: plain\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    warn("red", is_serious=True)
    assert capsys.readouterr().err == "\033[1;31mwarning: red\033[0m\n"


# channel order ----------------------------------------------------------------------------------

WRITERS = {  # suffix, writer, whether Target arrives as Target
    "OpenCV TIFF": (".tif", lambda path, image: cv2.imwrite(str(path), image), False),
    "Pillow TIFF": (".tif", lambda path, image: Image.fromarray(image).save(path), True),
    "OpenCV PNG": (".png", lambda path, image: cv2.imwrite(str(path), image), True),
    "Pillow PNG": (".png", lambda path, image: Image.fromarray(image).save(path), False),
}


@pytest.mark.parametrize("name", WRITERS)
def test_another_order_is_warned_of_and_can_be_named(tmp_path, score, name):
    suffix, write, is_right = WRITERS[name]
    folder = write_folder(tmp_path, write, suffix)
    code, text, metrics = score(folder)
    assert code == 0 and ("marked defects in Ref2" in text) != is_right
    assert bool(metrics["warnings"]) != is_right
    assert metrics["at_threshold"]["recall"] == float(is_right)
    code, text, metrics = score(folder, "--channels", "ref2,ref1,target")
    assert metrics["at_threshold"]["recall"] == float(not is_right)
    assert ("--channels ref2,ref1,target" in text) == is_right


@pytest.mark.parametrize(
    "text, order",
    [
        ("target,ref1,ref2", (0, 1, 2)),
        ("Ref1, Ref2, Target", (2, 0, 1)),
        ("mask,target,ref1,ref2", (1, 2, 3)),
        ("3,0,2", (3, 0, 2)),
    ],
)
def test_an_order_by_name_or_number(strip_file, text, order):
    flags = ["--training_dataset_path", "strips", "--channels", text]
    assert trainer.parse_args(flags).channels == order
    stored = np.stack([np.full(SIZE, 40.0 * number, np.float32) for number in range(4)])
    for pixels in (stored, np.moveaxis(stored, 0, 2)):
        image = load_image(strip_file(np.ascontiguousarray(pixels)), order=order)
        assert image[:, 0, 0].tolist() == [40.0 * number for number in order]


@pytest.mark.parametrize("text", ["target,ref1", "0,1,1", "0,1,4", "target,1,2", "red,green,blue"])
def test_what_is_no_order_is_a_wrong_flag(text, capsys):
    with pytest.raises(SystemExit) as ended:
        inference_pytorch.parse_args(["--channels", text])
    assert ended.value.code == 2 and "expected target, ref1, ref2" in capsys.readouterr().err


def test_a_model_reads_files_in_the_order_of_its_training(tmp_path, score, write_checkpoint):
    folder = write_folder(tmp_path, WRITERS["OpenCV TIFF"][1], ".tif", count=1)
    best = write_checkpoint(tmp_path / "model_best.pth", SIZE, channels=[2, 1, 0])
    model = ("--method", "net", "--model_path", best)
    assert score(folder, *model)[2]["warnings"] == []
    (warning,) = score(folder, *model, "--channels", "target,ref1,ref2")[2]["warnings"]
    assert "marked defects in Ref2" in warning


def test_a_painted_test_folder_has_one_order(tmp_path):
    for number in range(2):
        WRITERS["OpenCV TIFF"][1](tmp_path / f"{number}.tif", channels_last(make(number, 70.0)))
    words = ["testset", "--source", tmp_path, "--output", tmp_path / "painted"]
    prepare(parse_prepare([*map(str, words), "--channels", "2,1,0"]))
    good = load_image(tmp_path / "painted/test/good/0.tiff")
    assert np.array_equal(good, make(0, 70.0))
    assert not content_warnings(list_strips(tmp_path / "painted" / "test"), 255)


# JPG and photos ---------------------------------------------------------------------------------


def test_jpg_strips_are_warned_of(tmp_path, score):
    folder = write_folder(tmp_path, lambda path, image: cv2.imwrite(str(path), image), ".jpg")
    code, text, metrics = score(folder)
    assert code == 0 and "warning: found 4 JPG files" in text and len(metrics["warnings"]) == 1


def test_jpg_inside_a_tiff_is_warned_of(tmp_path):
    path = tmp_path / "strip.tif"
    Image.fromarray(channels_last(make(0))).save(path, compression="jpeg")
    (warning,) = content_warnings(list_strips(tmp_path), 255)
    assert "strip.tif: found JPG compression" in warning


def strip_of(path):
    return StripFile(path, path, None, None)


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_a_colour_photo_is_warned_of(tmp_path, name):
    Image.fromarray(load_sample_image(name)).save(tmp_path / "photo.png")
    (warning,) = content_warnings([strip_of(tmp_path / "photo.png")], 255)
    assert "expected three shots of one pattern" in warning


def test_one_colour_photo_among_strips_is_named(tmp_path):
    write_folder(tmp_path, lambda path, image: cv2.imwrite(str(path), image), ".png")
    folder = tmp_path / "strips"
    folder.mkdir()
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.png"), channels_last(make(number)))
    Image.fromarray(load_sample_image("flower.jpg")).save(folder / "photo.png")
    (warning,) = content_warnings(list_strips(folder), 255)
    assert warning.startswith(f"{folder / 'photo.png'}: found channels whose patterns correlate")
    assert "(strips like it: 1 of 7 looked at)" in warning


def test_marked_defects_of_a_good_strip_are_warned_of(tmp_path):
    masks = tmp_path / "ground_truth" / "good"
    for folder in (tmp_path / "test" / "good", masks):
        folder.mkdir(parents=True)
    for number, level in enumerate((255, 0)):  # the mask of the second marks nothing
        cv2.imwrite(str(tmp_path / "test" / "good" / f"{number}.png"), channels_last(make(number)))
        mask = np.zeros(make(0).shape[1:], np.uint8)
        mask[40:43, 40:43] = level
        cv2.imwrite(str(masks / f"{number}_mask.png"), mask)
    (warning,) = content_warnings(list_strips(tmp_path / "test"), 255)
    assert "0.png: found marked defects in a strip of good/, which counts as good" in warning
    assert "(strips like it: 1)" in warning


def test_channels_of_different_strips_are_warned_of(strip_file):
    mixed = np.stack([make_good_strip("clean", number, 3)[0] for number in range(3)])
    assert len(content_warnings([strip_of(strip_file(mixed.clip(0, 255)))], 255)) == 1


@pytest.mark.parametrize("level", ["shift", "noise", "everything", "fine pitch", "all hard"])
def test_shots_of_one_pattern_are_not(level):
    assert level in AMOUNTS
    for number in range(2):
        correlation = pattern_correlation(make_good_strip(level, number, 4))
        if level != "fine pitch":  # whose pattern is as fine as noise
            assert correlation is not None
        assert correlation is None or correlation > LEAST_CORRELATION + 0.05


def test_strips_without_a_pattern_are_not():
    flat = 100 + np.random.default_rng(0).normal(0, 3, (3, 300, 176)).astype(np.float32)
    assert pattern_correlation(flat) is None
    assert pattern_correlation(np.full((3, 300, 176), 100, np.float32)) is None


# orientation ------------------------------------------------------------------------------------


def write_turned(path, image, orientation):
    """Write (H, W[, 3]) uint8, RGB, as stored pixels that are to be turned."""
    exif = Image.Exif()
    exif[274] = orientation
    if path.suffix == ".tif":
        tag = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(
            path,
            image,
            photometric="minisblack" if image.ndim == 2 else "rgb",
            extratags=tag,
            metadata=None,
        )
        return
    Image.fromarray(image).save(path, exif=exif, quality=100, subsampling=0)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_strips_and_masks_lie_as_viewers_show_them(tmp_path, suffix, orientation):
    image = np.zeros((40, 24, 3), np.uint8)
    image[:20, :12] = 200
    image[30:, :] = 90
    path, mask_path = tmp_path / f"strip{suffix}", tmp_path / f"mask{suffix}"
    write_turned(path, image, orientation)
    write_turned(mask_path, np.where(image[..., 0] == 200, 255, 0).astype(np.uint8), orientation)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(path)))[..., 0]
    assert np.abs(load_image(path)[0] - shown).max() < 8
    assert np.array_equal(load_mask(mask_path, shown.shape), shown > 150)


def test_every_page_of_a_turned_tiff_is_turned(tmp_path):
    stored = make(0).astype(np.uint8)
    tag = [(274, "H", 1, 6, True)]
    for name, options in {"plain": {}, "packed": {"compression": "zlib"}}.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, stored, photometric="minisblack", extratags=tag, **options)
        assert np.array_equal(load_image(path), np.rot90(stored, -1, (1, 2)))


def test_an_orientation_of_pages_that_are_no_images_is_refused(tmp_path):
    path = tmp_path / "rows.tif"
    tag = [(274, "H", 1, 3, True)]
    last = channels_last(make(0))
    tifffile.imwrite(path, last, photometric="minisblack", extratags=tag, metadata=None)
    with pytest.raises(UserError, match=r"rows\.tif: found orientation 3 \(tag 274\)"):
        load_image(path)


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"II*\0\xff\xff\0\0", b"MM\0*\0\0\0\x08\0\x09"])
def test_broken_exif_names_no_orientation(tmp_path, exif):
    Image.fromarray(channels_last(make(0))).save(tmp_path / "strip.jpg", exif=b"Exif\0\0" + exif)
    assert load_image(tmp_path / "strip.jpg").shape == (3, *SIZE)


# checks elsewhere -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [inference_pytorch, inference_onnx])
def test_a_method_beside_a_model_is_an_error(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command.parse_args(["--method", "double", "--model_path", "somewhere"])
    assert ended.value.code == 2
    assert "--method double beside --model_path somewhere" in capsys.readouterr().err
    assert command.parse_args(["--method", "double"]).method == "double"


def test_an_export_says_that_a_method_has_no_model(capsys):
    export_onnx_fullimage.parse_args(["--method", "double", "--checkpoint_path", "some.pth"])
    assert "--checkpoint_path some.pth is not used" in capsys.readouterr().err


def test_few_strips_get_more_epochs_and_given_epochs_stay(dataset, tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(trainer.Training, "run", lambda self: asked.append(self.settings.epochs))
    monkeypatch.setattr(trainer, "measure_best", lambda *arguments: pytest.skip())
    words = arguments_for(dataset, tmp_path, "--bs", 16)
    without = list(words)
    while "--epochs" in without:
        at = without.index("--epochs")
        del without[at : at + 2]
    for flags in (words, without):
        with pytest.raises(pytest.skip.Exception):
            trainer.train(trainer.parse_args(flags))
    printed = capsys.readouterr().out
    assert asked == [3, 700]  # 3 strips of 4 tiles: one step of 16 patches
    assert "epochs: 700 instead of 10, because 3 strips are 1 steps an epoch" in printed


def test_the_trainer_alone_trains_what_train_sh_trains():
    parsed = trainer.parse_args(["--training_dataset_path", "strips", "--gpu_id", "-1"])
    expected = {
        **{"recipe": "robust", "align": "fine", "arch": "difference"},
        **{"weighting": "strong_likelihood"},
        **{"num_defects_range": [4, 10], "base_channels": 16, "epochs": 10, "amp": False},
        **{"lr": 0.002, "lr_schedule": "one_cycle", "bs": 16, "cache_size": 100, "seed": 42},
    }
    assert {name: getattr(parsed, name) for name in expected} == expected
    flags = ["--recipe", "classic", "--align", "none", "--arch", "unet"]
    first = trainer.parse_args(["--training_dataset_path", "strips", *flags])
    assert (first.weighting, first.gamma_schedule, first.lr) == ("none", "cosine", 0.001)


@pytest.mark.parametrize(
    "order, words",
    [
        ((0, 0, 2), "Ref1 is the same picture as Target"),
        ((0, 1, 0), "Ref2 is the same picture as Target"),
        ((0, 1, 1), "one picture as both references"),
        ((0, 0, 0), "the same picture in all three channels"),
        ((0, 1, 2), None),
    ],
)
def test_channels_that_are_one_picture_are_named(tmp_path, order, words):
    for number in range(3):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, make(number)[list(order)], photometric="minisblack")
    found = content_warnings(list_strips(tmp_path), 255.0)
    assert [words in sentence for sentence in found] == ([True] if words else [])


def test_defects_in_ref1_advise_the_order_that_helps(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "ground_truth").mkdir()
    for number in range(2):
        strip = make(number, 70.0)[[1, 0, 2]]
        tifffile.imwrite(tmp_path / "test" / f"{number}.tif", strip, photometric="minisblack")
        cv2.imwrite(str(tmp_path / "ground_truth" / f"{number}_mask.png"), mask_of_spots())
    (warning,) = content_warnings(list_strips(tmp_path / "test"), 255.0)
    assert "6 of 6 marked defects in Ref1" in warning and "--channels ref1,target,ref2" in warning


def test_the_count_of_clipped_values_is_kept_for_the_next_training(tmp_path):
    strip = make(0)
    strip[0, 0, :5] = -1.5
    (tmp_path / "good").mkdir()
    tifffile.imwrite(tmp_path / "good" / "a.tif", strip, photometric="minisblack")
    for unchanged in (0, 1):
        notes = VerifiedFiles(tmp_path / "checked.json")
        verification = verify_strips(list_strips(tmp_path / "good"), 255.0, good_files=notes)
        notes.save()
        assert verification.values.clipped == 5 and len(notes.unchanged) == unchanged
