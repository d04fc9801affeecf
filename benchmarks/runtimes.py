"""The oldest ONNX Runtime that opens and computes the files of each opset.

    python3.8 -m venv runtime-1.14
    runtime-1.14/bin/pip install onnxruntime==1.14.1 'numpy<2'
    python -m benchmarks.runtimes --checkpoint_path checkpoints/RUN_best.pth \\
        --environments runtime-1.14/bin/python runtime-1.15/bin/python

Exports the checkpoint at every opset, and lets each environment's ONNX Runtime score one strip with
every file. A runtime passes with the heatmap of this suite's own runtime.
"""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from benchmarks.command_line import make_parser
from benchmarks.tables import print_header, print_row
from common.errors import UserError, one_line
from deploy.onnx_export import OLDEST_OPSET
from deploy.session import open_session
from export_onnx_fullimage import export, parse_args

NEWEST_OPSET = 26
# of probabilities: as in the proof of parity, and what other kernels' rounding adds
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-3, "int8": 2e-3}
# runs in an old interpreter, which has NumPy and ONNX Runtime alone
SCORE = """
import json, sys
import numpy as np
import onnxruntime

results = {"runtime": onnxruntime.__version__}
images = np.load(sys.argv[1])
for path in sys.argv[2:]:
    try:
        try:
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except TypeError:
            session = onnxruntime.InferenceSession(path)
        heatmap = session.run(["output"], {"input": images})[0]
        expected = np.load(path + ".npy")
        results[path] = float(np.abs(heatmap - expected).max())
    except Exception as error:
        results[path] = str(error)[-150:]
print(json.dumps(results))
"""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint_path", type=Path, required=True)
    parser.add_argument(
        "--environments", nargs="+", required=True, help="interpreters, each with an ONNX Runtime"
    )
    parser.add_argument(
        "--opsets", nargs="+", type=int, default=range(OLDEST_OPSET, NEWEST_OPSET + 1)
    )
    parser.add_argument("--precision", choices=TOLERANCES, default="fp32")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        images = Path(folder) / "images.npy"
        files = export_all(
            arguments.checkpoint_path, arguments.opsets, arguments.precision, Path(folder), images
        )
        outcomes = {}
        for interpreter in arguments.environments:
            outcome = score_in(interpreter, images, list(files.values()))
            outcomes[outcome.pop("runtime")] = outcome
        print_table(files, outcomes, TOLERANCES[arguments.precision])


def export_all(
    checkpoint: Path, opsets: Iterable[int], precision: str, folder: Path, images: Path
) -> dict[int, Path]:
    """Export the checkpoint at those opsets that pass, by opset.

    Writes the images (1, 3, H, W) float32 0-1 to `images`, and each file's heatmap beside it.
    """
    files = {}
    for opset in opsets:
        path = folder / f"{opset}.onnx"
        words = ["--checkpoint_path", checkpoint, "--output_path", path, "--opset_version", opset]
        words += ["--precision", precision, *(["--force"] if precision != "fp32" else [])]
        try:
            export(parse_args(list(map(str, words))))
        except UserError as error:
            print(f"opset {opset}: {one_line(error)}")
            continue
        session = open_session(path)
        if not images.exists():
            shape = (1, *session.get_inputs()[0].shape[1:])
            np.save(images, np.random.default_rng(0).random(shape, np.float32))
        np.save(f"{path}.npy", session.run(["output"], {"input": np.load(images)})[0])
        files[opset] = path
    return files


def score_in(interpreter: str, images: Path, files: list[Path]) -> dict[str, str | float]:
    """What an environment makes of each file, by path: the largest difference, or its complaint.

    `runtime` is the version of its ONNX Runtime.
    """
    words = [interpreter, "-c", SCORE, images, *files]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if not lines:
        raise SystemExit(f"{interpreter}: {done.stderr.strip()[-300:]}")
    return json.loads(lines[-1])


def print_table(
    files: dict[int, Path], outcomes: dict[str, dict[str, str | float]], tolerance: float
) -> None:
    """Print each opset's IR version, its oldest runtime, and what every other one says."""
    runtimes = sorted(outcomes, key=lambda version: [int(part) for part in version.split(".")])
    passed, failed = {}, []
    for opset, path in files.items():
        found = {runtime: outcomes[runtime][str(path)] for runtime in runtimes}
        passed[opset] = [
            name for name in runtimes if isinstance(found[name], float) and found[name] <= tolerance
        ]
        failed += [(opset, name, found[name]) for name in runtimes if name not in passed[opset]]
    print_header("opset", "IR version", "oldest ONNX Runtime", "newer ones that fail")
    for opset, names in passed.items():
        oldest = names[0] if names else "none"
        newer = runtimes[runtimes.index(oldest) + 1 :] if names else []
        fail = ", ".join(name for name in newer if name not in names) or "none"
        print_row(opset, onnx.load(files[opset]).ir_version, oldest, fail)
    print()
    print_header("opset", "ONNX Runtime", "difference, or complaint")
    for opset, name, found in failed:
        print_row(opset, name, found)


if __name__ == "__main__":
    main()
