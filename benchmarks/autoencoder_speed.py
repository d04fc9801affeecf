"""How fast exported files of the reference-free detector are, and how much memory a folder takes.

    # random weights, which are as fast as trained ones: five minutes on two cores
    python -m benchmarks.autoencoder_speed
    # the memory of scoring a folder of N small pictures, against a tenth as many
    python -m benchmarks.autoencoder_speed --pictures 10000

The files hold a U-Net of depth 4 for painted damage (--task segment), as PyTorch would score with
it: windows, maps, z-scores, smoothing and top share. Windows become 96 pixels, those of the small
preset. `wall` is the median time of a call of one picture, and `CPU` that of the processor, of all
threads together: on a busy machine the latter says more. Each timed call follows an untimed one.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autoencoder import feature_library
from autoencoder.maps import SEGMENT, NetworkMaps
from autoencoder.network import UNet
from autoencoder.picture_graph import OUTPUTS, PictureGraph
from autoencoder.scorer import PictureScorer, ScoreSettings
from benchmarks.command_line import ROOT, as_words, make_parser
from benchmarks.tables import print_header, print_row
from data.image_files import encode_image
from deploy.onnx_export import quiet_exporters, write_graph
from deploy.session import SessionSettings, place_session

STRIP, SQUARE = (976, 176), (1024, 1024)
INPUT, OPSET = 96, 18
ONE, STRIP_SCALES, SQUARE_SCALES = (128,), (96, 128, 176), (128, 256, 512)
ROUNDS, SIDE, GOOD = 5, 32, 20


@dataclass(frozen=True)
class File:
    """A row: pictures of a size (height, width), and how they are scored.

    Without `is_batched`, the network takes one window after the other.
    """

    name: str
    size: tuple[int, int]
    windows: tuple[int, ...]
    mode: str
    is_batched: bool = True


FILES = (
    File("976x176, one scale, whole", STRIP, ONE, "pyramid"),
    File("976x176, three scales, pyramid", STRIP, STRIP_SCALES, "pyramid"),
    File("976x176, one scale, sliding", STRIP, ONE, "sliding"),
    File("976x176, one scale, sliding, one window at a time", STRIP, ONE, "sliding", False),
    File("976x176, three scales, sliding", STRIP, STRIP_SCALES, "sliding"),
    File("1024x1024, three scales, pyramid", SQUARE, SQUARE_SCALES, "pyramid"),
    File("1024x1024, three scales, sliding", SQUARE, SQUARE_SCALES, "sliding"),
)


def main() -> int:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--base_channels", type=int, default=16)
    add("--threads", type=int, default=2, help="of ONNX Runtime")
    add("--rounds", type=int, default=ROUNDS, help="timed calls of each file")
    add("--files", nargs="+", default=[""], help="beginnings of the names of rows; default: all")
    add("--pictures", type=int, help="measure the memory of so many pictures instead")
    arguments = parser.parse_args()
    if arguments.pictures:
        print_memory(arguments.pictures)
        return 0
    print_header("one picture, CPU", "file, MB", "wall, ms", "CPU, ms", "difference to PyTorch")
    for row in FILES:
        if row.name.startswith(tuple(arguments.files)):
            print_row(
                row.name,
                *measure(row, arguments.base_channels, arguments.threads, arguments.rounds),
            )
    return 0


def measure(row: File, base_channels: int, threads: int, rounds: int) -> list[str]:
    """Size, times and parity of a file, as the cells of its row."""
    scorer = make_scorer(row, base_channels)
    graph = PictureGraph(scorer, "unit", 255).eval()
    picture = np.random.default_rng(0).random((1, 1, *row.size), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.onnx"
        with quiet_exporters():
            write_graph(graph, torch.zeros(2, 1, *row.size), OPSET, path, OUTPUTS, [0.5])
        session = place_session(path, SessionSettings("cpu", threads=threads)).session
        size = path.stat().st_size / 1e6
        walls, processor = [], []
        for _ in range(rounds):
            heatmap = session.run(["heatmap"], {"input": picture})[0]
            wall, cpu = time.perf_counter(), time.process_time()
            session.run(["heatmap"], {"input": picture})
            walls.append(1000 * (time.perf_counter() - wall))
            processor.append(1000 * (time.process_time() - cpu))
    with torch.inference_mode():
        expected = scorer(torch.from_numpy(picture))[0].numpy()
    times = (f"{statistics.median(values):,.0f}" for values in (walls, processor))
    return [f"{size:.1f}", *times, f"{np.abs(heatmap - expected).max():.1e}"]


def make_scorer(row: File, base_channels: int) -> PictureScorer:
    """The scorer of a row, with random weights."""
    torch.manual_seed(0)
    network = UNet(base_channels=base_channels)
    with torch.no_grad():
        network(torch.rand(4, 1, INPUT, INPUT))  # moves the statistics of batch norm
    source = NetworkMaps(network.eval(), SEGMENT, ("mask",), INPUT)
    settings = ScoreSettings(windows=row.windows, window_mode=row.mode)
    scorer = PictureScorer(row.size, [source], settings).eval()
    if not row.is_batched:
        for scale in scorer.scales:
            scale.at_once = 1
    return scorer


def print_memory(count: int) -> None:
    """Print the peak memory of scoring `count` pictures of SIDE pixels, and of a tenth of them."""
    print_header("pictures", "peak memory of the command, MB", "CPU, s")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library.pth"
        good = write_pictures(Path(folder) / "good", GOOD)
        flags = ("--training_dataset_path", good, "--output_path", library, "--memory", 40)
        flags += ("--input_size", SIDE)
        feature_library.build(feature_library.parse_args(as_words(*flags)))
        for number in (max(1, count // 10), count):
            pictures = write_pictures(Path(folder) / f"test{number}", number)
            words = ("--library", library, "--test_path", pictures, "--pictures_per_kind", 1)
            words += ("--output_dir", Path(folder) / f"scores{number}")
            print_row(f"{number:,}", *measure_command(as_words(*words)))


def measure_command(words: list[str]) -> tuple[str, str]:
    """Peak memory in MB and processor seconds of autoencoder.inference with these flags."""
    code = (
        "import resource, sys; from autoencoder import inference; "
        "code = inference.infer(inference.parse_args(sys.argv[1:])); "
        "used = resource.getrusage(resource.RUSAGE_SELF); "
        "print(used.ru_maxrss, used.ru_utime + used.ru_stime, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    peak, seconds = done.stderr.splitlines()[-1].split()
    return f"{int(peak) / 1024:,.0f}", f"{float(seconds):,.0f}"


def write_pictures(folder: Path, count: int) -> Path:
    """`count` noisy pictures in a folder, most of them links to one of GOOD files."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:06}.png"
        if number < GOOD:
            levels = generator.normal(120, 20, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
            path.write_bytes(encode_image(path, levels))
        else:
            path.hardlink_to(folder / f"{number % GOOD:06}.png")
    return folder


if __name__ == "__main__":
    sys.exit(main())
