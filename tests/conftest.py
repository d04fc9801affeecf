"""Small real parts: strips on disk, a small network, the commands as a user starts them."""

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch

from benchmarks.command_line import FIRST_RECIPE
from benchmarks.suite import strips as suite_strips
from data.demo_strips import make_strip
from data.write_images import write_strip
from export_onnx_fullimage import export, parse_args
from model import SegmentationNetwork
from prepare_dataset import write_painted_strip
from tests import processes
from tests.cpp import build
from tests.suite_measures import FINE_SIZE
from training.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
SMALL_SIZE = (200, 150)  # (height, width): 2 x 2 tiles of 128, no multiple of anything
BASE_CHANNELS = 4
# files by what they cost, so that at the end no worker waits for another that has a long one left
LONGEST = (
    *(
        "test_trainer",
        "test_resume",
        "test_wrappers",
        "test_distributed",
        "test_export_module",
        "test_registration",
        "test_cpp",
        "test_gpu_benchmark",
    ),
    *(
        "test_export",
        "test_autoencoder_export",
        "test_weighting",
        "test_scoring",
        "test_precision",
        "test_inference",
        "test_teacher",
        "test_onnx_session",
        "test_documents",
    ),
    *("test_registered_copies", "test_report", "test_prepare_dataset", "test_metadata"),
)
QUICK_OPSET = 17  # TorchScript's exporter takes a tenth of the time of the newer one


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests that take minutes, too")
    parser.addoption("--scale", action="store_true", help="run the tests in tests/scale, too")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What lies in tests/scale needs packages that the default environment lacks."""
    is_scale = collection_path == ROOT / "tests" / "scale"
    return True if is_scale and not config.getoption("--scale") else None


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        processes.ensure_server()  # for all workers; without any, the first test that needs it does


def pytest_unconfigure(config: pytest.Config) -> None:
    processes.stop_server()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin with the C++ detector while other tests run: half a minute, for which its tests would
    wait.
    """
    is_first = os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0"
    if (
        is_first
        and not session.config.option.collectonly
        and any(item.path.stem == "test_cpp" for item in session.items)
    ):
        threading.Thread(target=_build_ahead, daemon=True).start()


def _build_ahead() -> None:
    with contextlib.suppress(RuntimeError):  # which the tests report
        build("checks")


def run(*command: object, cwd: Path = ROOT, **options: object) -> subprocess.CompletedProcess:
    """A script of the repository, run to its end as processes.run does it; names in capitals are
    environment variables.
    """
    environment = {name: options.pop(name) for name in list(options) if name.isupper()}
    return processes.run(
        ROOT / command[0], *command[1:], folder=cwd, environment=environment, **options
    )


def run_module(*command: object, **options: object) -> subprocess.CompletedProcess:
    """The same of a benchmark: python -m NAME."""
    return processes.run("-m", *command, folder=ROOT, **options)


def export_file(checkpoint: Path, output: Path, *more: object, opset: int = QUICK_OPSET) -> Path:
    """The ONNX file of a checkpoint."""
    words = (
        "--checkpoint_path",
        checkpoint,
        "--output_path",
        output,
        "--opset_version",
        opset,
        *more,
    )
    return export(parse_args([str(word) for word in words]))


RUN = "BgRemoval_lr0.001_ep3_bs4_200x150_strip"


def arguments_for(dataset: Path, folder: Path, *more: object) -> list[str]:
    """Flags of a short training on the small strips, of the first recipe, which is the quickest;
    what follows wins.
    """
    flags = [
        *FIRST_RECIPE,
        "--training_dataset_path",
        dataset / "train" / "good",
        "--checkpoint_path",
        folder,
        "--base_channels",
        4,
    ]
    return [str(flag) for flag in [*flags, "--bs", 4, "--epochs", 3, "--gpu_id", -1, *more]]


def weights(path: Path) -> dict[str, bytes]:
    """A checkpoint's weights, bit for bit."""
    return {
        name: tensor.numpy().tobytes()
        for name, tensor in load_checkpoint(path)["model_state_dict"].items()
    }


def without_test(dataset: Path, root: Path) -> Path:
    """A copy, in the new folder `root`, of a data set's train/ and valid/."""
    for name in ("train", "valid", "ground_truth_valid"):
        shutil.copytree(dataset / name, root / name)
    return root


@pytest.fixture(scope="session")
def make_network() -> Callable[..., SegmentationNetwork]:
    """A network whose answers are not trivial: random weights and random batch norm statistics."""

    def make(base_channels: int = BASE_CHANNELS, seed: int = 0) -> SegmentationNetwork:
        torch.manual_seed(seed)
        network = SegmentationNetwork(base_channels=base_channels)
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(0, 0.1)
                if name.endswith("running_var"):
                    buffer.uniform_(0.5, 1.5)
            network.eval()
            network.head.weight.mul_(2 / network(torch.rand(1, 3, 128, 128)).std())
        return network

    return make


@pytest.fixture(scope="session")
def write_checkpoint(make_network: Callable) -> Callable[..., Path]:
    """A checkpoint of only the six required keys, and of what else is given."""

    def write(path: Path, size: tuple[int, int] = SMALL_SIZE, **extra: object) -> Path:
        facts = {
            "img_height": size[0],
            "img_width": size[1],
            "image_type": "strip",
            "epoch": 1,
            "seed": 42,
        }
        save_checkpoint(path, {"model_state_dict": make_network().state_dict()} | facts | extra)
        return path

    return write


@pytest.fixture
def make_checkpoint(tmp_path: Path, write_checkpoint: Callable) -> Callable[..., Path]:
    """The same in the folder of the test."""
    return lambda name="model_best.pth", *size, **extra: write_checkpoint(
        tmp_path / name, *size, **extra
    )


@pytest.fixture(scope="session")
def onnx_model(write_checkpoint: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of such a checkpoint. Not to be changed: it is shared."""
    folder = tmp_path_factory.mktemp("model")
    return export_file(write_checkpoint(folder / "model_best.pth"), folder / "model_best.onnx")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole data set of small strips: train, valid and test. Not to be changed: it is shared."""
    root = tmp_path_factory.mktemp("data") / "strips"
    for split, good, defective in (("train", 3, 0), ("valid", 2, 2), ("test", 2, 2)):
        for number in range(good + defective):
            generator = np.random.default_rng((len(split), number))
            image = make_strip(generator, SMALL_SIZE)
            if number < good:
                write_strip(root / split / "good" / f"strip_{number}.tiff", image)
            else:
                write_painted_strip(root, split, f"strip_{number}.tiff", image, generator)
    return root


@pytest.fixture
def strip_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes pixels to a TIFF file."""

    def write(
        pixels: np.ndarray,
        name: str = "strip.tiff",
        photometric: str = "minisblack",
        **options: object,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, pixels, photometric=photometric, **options)
        return path

    return write


@pytest.fixture
def no_parts_kept() -> Iterator[None]:
    """The parts of a test that changes how the suite draws them are nobody else's."""
    suite_strips.make_part.cache_clear()
    yield
    suite_strips.make_part.cache_clear()


@pytest.fixture
def pattern(no_parts_kept: None, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Puts a pattern of the fine grid, or one grey level, in the place of the drawn ones."""

    def put(levels: np.ndarray | float) -> None:
        levels = np.broadcast_to(np.float32(levels), FINE_SIZE)
        monkeypatch.setattr(suite_strips, "draw_pattern", lambda *arguments: levels.copy())

    return put


@pytest.fixture
def texture(pattern: Callable) -> None:
    """A pattern of the suite whose shift can be measured everywhere and in both directions."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).standard_normal(FINE_SIZE), (0, 0), 4)
    pattern(128 + 30 * noise / noise.std())
