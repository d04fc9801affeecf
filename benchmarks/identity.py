"""Compare this code's results with those of an earlier commit, bit for bit.

    python -m benchmarks.identity --base HEAD~20      # two to four minutes on two cores

Both sides run the same commands on the same files, in processes of one thread:

- demo strips and seeded trainings of both recipes
- a run that the earlier code began and each side finishes
- heatmaps and tables of the earlier code's checkpoints
- exported graphs, whose nodes and values may have other names
- the earlier code's ONNX files in ONNX Runtime

The table has a row for each result, and the exit code is 1 where one differs. --output keeps the
files of the earlier side, and later calls use them again.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import tifffile
import torch

ROOT = Path(__file__).resolve().parent.parent
# (height, width) of the small strips in pixels: 2 x 2 tiles of 128, and no multiple of any stride
SIZE = (200, 150)
COUNTS = {"train": (3, 0), "valid": (2, 2), "test": (2, 2)}  # good and defective strips
KIND = "bright_spots"
# of the first recipe, in full: the defaults of the two trees may differ
FIRST_RECIPE = (
    *("--recipe", "classic", "--align", "none", "--weighting", "none", "--arch", "unet"),
    *("--num_defects_range", 3, 8, "--cache_size", 0),
)
SMALL = (*FIRST_RECIPE, "--base_channels", 4, "--bs", 4, "--gpu_id", -1)
TRAININGS = {  # name of the run: flags of trainer.py
    "classic": ("--epochs", 2),
    "robust": ("--epochs", 2, "--recipe", "robust", "--align", "full", "--arch", "difference"),
    "taught": ("--epochs", 1, "--arch", "mobile", "--teacher", "{base}/classic"),
}
EXPORTS = {  # name: checkpoint, flags of export_onnx_fullimage.py
    "classic, opset 17": ("classic", ("--opset_version", 17)),
    "robust, all outputs, opset 17": (
        "robust",
        (
            "--opset_version",
            17,
            "--outputs",
            "heatmap,score,detections,alignment",
            "--input",
            "raw",
            "--input_channels",
            4,
        ),
    ),
    "classic, whole, uint8, opset 18": ("classic", ("--mode", "whole", "--input", "uint8")),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", required=True, help="the earlier commit, as git names it")
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "output" / "identity",
        help="folder for the files of both sides",
    )
    arguments = parser.parse_args()
    commit = git("rev-parse", "--verify", f"{arguments.base}^{{commit}}")
    base = arguments.output.absolute() / commit[:12]
    if not (base / "complete").exists():
        shutil.rmtree(base, ignore_errors=True)
        with tempfile.TemporaryDirectory() as folder:
            git("clone", "--quiet", "--no-checkout", str(ROOT), folder)
            git("-C", folder, "checkout", "--quiet", commit)
            make_strips(Path(folder), base / "strips")
            Side(Path(folder), base, base).run()
        (base / "complete").touch()
    now = arguments.output.absolute() / "now"
    shutil.rmtree(now, ignore_errors=True)
    make_strips(ROOT, now / "strips")
    Side(ROOT, now, base).run()
    rows = [
        (name, differences(base / name, now / name))
        for name in sorted(names_in(base) | names_in(now))
    ]
    print("| compared | files | different |\n| --- | --- | --- |")
    for name, (count, different) in rows:
        print(f"| {name} | {count} | {', '.join(different) or 'none'} |")
    return 1 if any(different or not count for _, (count, different) in rows) else 0


def git(*words: str) -> str:
    """The output of a git command. Exits with git's exit code where git fails."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout.strip()


def make_strips(code: Path, folder: Path) -> None:
    """Make demo strips with the code in a folder, and crop a small data set from them."""
    command(code, "prepare_dataset.py", "demo", "--output", folder / "demo")
    for split, (good, defective) in COUNTS.items():
        for kind, count in (("good", good), (KIND, defective)):
            for number in range(count):
                strip = Path(split) / kind / f"strip_{number:03}.tiff"
                crop(folder / "demo" / strip, folder / "small" / strip)
                mask = (
                    Path({"test": "ground_truth"}.get(split, "ground_truth_valid"))
                    / kind
                    / f"strip_{number:03}_mask.png"
                )
                if kind == KIND:
                    crop_mask(folder / "demo" / mask, folder / "small" / mask)


def crop(source: Path, output: Path) -> None:
    """Write the upper left SIZE of a strip."""
    output.parent.mkdir(parents=True, exist_ok=True)
    pixels = tifffile.imread(source)[:, : SIZE[0], : SIZE[1]]
    tifffile.imwrite(output, pixels, photometric="minisblack", planarconfig="separate")


def crop_mask(source: Path, output: Path) -> None:
    """Write the upper left SIZE of a mask."""
    import cv2

    output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(output), cv2.imread(str(source), cv2.IMREAD_UNCHANGED)[: SIZE[0], : SIZE[1]])


@dataclass(frozen=True)
class Side:
    """The commands of one version of the code."""

    code: Path  # folder of the repository
    folder: Path  # that the commands write into
    base: Path  # folder of the earlier side's files, which the commands read

    def run(self) -> None:
        """Run all commands in their order."""
        strips = self.base / "strips" / "small"
        good = ("--training_dataset_path", strips / "train" / "good")
        for name, flags in TRAININGS.items():
            words = [
                self.best(word.split("/")[1]) if str(word).startswith("{base}") else word
                for word in flags
            ]
            command(
                self.code,
                "trainer.py",
                *good,
                "--checkpoint_path",
                self.folder / "trainings" / name,
                *SMALL,
                *words,
            )
        for name in ("classic", "robust"):
            self.finish(name)
            self.score(
                f"{name} in PyTorch",
                "inference_pytorch.py",
                "--model_path",
                self.best(name),
                "--gpu_id",
                -1,
            )
        self.score(
            "registered difference",
            "inference_pytorch.py",
            "--method",
            "registered",
            "--gpu_id",
            -1,
        )
        for name, (checkpoint, flags) in EXPORTS.items():
            output = self.folder / "exported" / f"{name}.onnx"
            command(
                self.code,
                "export_onnx_fullimage.py",
                "--checkpoint_path",
                self.best(checkpoint),
                "--output_path",
                output,
                *flags,
            )
            model = self.base / "exported" / f"{name}.onnx"
            self.score(
                f"{name} in ONNX Runtime",
                "inference_onnx.py",
                "--model_path",
                model,
                "--device",
                "cpu",
                "--threads",
                1,
            )

    def finish(self, name: str) -> None:
        """Resume a copy of a run of the earlier side for one more epoch."""
        folder = self.folder / "resumed" / name
        shutil.copytree(self.base / "trainings" / name, folder)
        command(self.code, "trainer.py", "--resume", folder, "--epochs", 3)

    def score(self, name: str, script: str, *flags: object) -> None:
        """Score the small test strips into the folder of a name."""
        test = self.base / "strips" / "small" / "test"
        command(
            self.code,
            script,
            "--test_path",
            test,
            "--output_dir",
            self.folder / "scored" / name,
            *flags,
        )

    def best(self, name: str) -> Path:
        """The best checkpoint of a run of the earlier side."""
        return next((self.base / "trainings" / name).glob("*_best.pth"))


def command(code: Path, script: str, *words: object) -> None:
    """Run a script of the code in a folder. Exits with the script's output where it fails."""
    print(f"{code.name}: {script} {' '.join(map(str, words))}", file=sys.stderr)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, script, *map(str, words)],
        cwd=code,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.exit(
            f"{done.stdout.decode()}"
            f"error: {script} of {code} ended with exit code {done.returncode}"
        )


def names_in(side: Path) -> set[str]:
    """The names of the compared folders, which lie two levels down, and `exported`."""
    return {str(path.relative_to(side)) for path in side.glob("*/*") if path.is_dir()} | {
        "exported"
    }


def differences(base: Path, now: Path) -> tuple[int, list[str]]:
    """The number of compared files, and those that differ or exist on one side only."""
    found = {
        path.relative_to(side)
        for side in (base, now)
        for path in side.rglob("*")
        if path.suffix in FINGERPRINTS
    }
    different = [
        str(path)
        for path in sorted(found)
        if not (base / path).exists()
        or not (now / path).exists()
        or of(base / path) != of(now / path)
    ]
    return len(found), different


def of(path: Path) -> str:
    """The fingerprint of a file's results."""
    return FINGERPRINTS[path.suffix](path)


def of_bytes(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of_checkpoint(path: Path) -> str:
    """The fingerprint of a checkpoint's weights, optimizer, history and measurements.

    Entries that say where and when the training ran do not count.
    """
    content = torch.load(path, weights_only=True)
    kept = (
        "model_state_dict",
        "optimizer_state_dict",
        "history",
        "step",
        "loss_sum",
        "calibration",
        "channel_ranges",
        "rival_sigmas",
    )
    digest = hashlib.sha256()
    _add(digest, {name: content.get(name) for name in kept})
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", value: object) -> None:
    if isinstance(value, dict):
        for name in value:
            digest.update(str(name).encode())
            _add(digest, value[name])
    elif isinstance(value, list | tuple):
        for entry in value:
            _add(digest, entry)
    elif isinstance(value, torch.Tensor):
        digest.update(value.contiguous().numpy().tobytes())
    else:
        digest.update(repr(value).encode())


def of_graph(path: Path) -> str:
    """The fingerprint of a graph's operators, attributes, edges and weights, and of its metadata.

    Nodes and values count by their number, not by their name.
    """
    model = onnx.load(path)
    digest = hashlib.sha256(str(model.opset_import[0].version).encode())
    numbers: dict[str, int] = {}
    named = [*model.graph.input, *model.graph.output]
    digest.update(json.dumps([value.name for value in named]).encode())
    weights = {
        weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer
    }
    for node in model.graph.node:
        digest.update(node.op_type.encode())
        for attribute in sorted(node.attribute, key=lambda attribute: attribute.name):
            digest.update(attribute.SerializeToString())
        for name in node.input:
            if name in weights:
                array = weights[name]
                digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
            else:
                digest.update(str(numbers.setdefault(name, len(numbers))).encode())
        for name in node.output:
            digest.update(str(numbers.setdefault(name, len(numbers))).encode())
    entries = {
        entry.key: entry.value for entry in model.metadata_props if entry.key not in ADDED_ENTRIES
    }
    digest.update(json.dumps(entries, sort_keys=True).encode())
    return digest.hexdigest()


# metadata that later code adds or changes on purpose
ADDED_ENTRIES = ("schema_version", "tool")
FINGERPRINTS: dict[str, Callable[[Path], str]] = {
    ".tiff": lambda path: hashlib.sha256(
        np.ascontiguousarray(tifffile.imread(path)).tobytes()
    ).hexdigest(),
    ".png": of_bytes,
    ".csv": of_bytes,
    ".pth": of_checkpoint,
    ".onnx": of_graph,
}

if __name__ == "__main__":
    sys.exit(main())
