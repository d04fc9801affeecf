"""Train the segmentation network on good strips.

    python trainer.py --training_dataset_path dataset/demo/train/good --base_channels 16 --epochs 10     # two CPU cores
    python trainer.py --training_dataset_path /data/strips/train/good --num_defects_range 4 10 --cache_size 100     # GPU

Leaves in --checkpoint_path, under the run's name BgRemoval_lr{lr}_ep{epochs}_bs{bs}_{h}x{w}_{image_type}:
{run}.pth (last epoch), {run}_best.pth, {run}_samples.png (what is being learnt), {run}_curves.png, and, where the data set has
test strips, the best checkpoint's scores and pictures of them in {run}_test/.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from errors import UserError, run_command
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from checkpoint import BEST_SUFFIX, NETWORK_NAME, build_network, load_checkpoint, save_checkpoint
from command_line import (
    CHECKPOINT_FOLDER,
    LARGEST_SEED,
    add_image_type,
    add_img_format,
    add_true_or_false,
    command_parser,
    positive,
    whole_number,
)
from dataloader import DEFAULT_INPUT_MAX, EpochSampler, StripPatches
from dataset_folder import StripFile, list_strips, split_beside
from evaluation import describe_figures, evaluate, write_results
from inspection import inspect_strips
from loss import FocalLoss, gamma_at
from model import SegmentationNetwork
from predictors import TorchPredictor, choose_device
from tiling import PATCH_SIZES
from visualize import save_curves, save_samples

LR_DROPS = (0.8, 0.9)  # of the epochs: there the learning rate is multiplied by LR_FACTOR
LR_FACTOR = 0.2
SAMPLES_SHOWN = 6
TEST_PICTURES_PER_KIND = 10  # panels drawn of the test strips; inference_pytorch.sh draws them all
STEPS_PER_READING = 20  # the loss stays on the device in between
VALID = "valid_"  # prefix of the validation figures in a run's history


@dataclass(frozen=True)
class Dataset:
    """The strips of a run, all usable and of one size (height, width); no `valid` or `test` where there are none."""

    image_size: tuple[int, int]
    train: list[StripFile]
    valid: list[StripFile]
    test: list[StripFile]


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    number = whole_number
    parser.add_argument("--training_dataset_path", type=Path, required=True, help="folder of good strips, usually ROOT/train/good")
    parser.add_argument("--checkpoint_path", type=Path, default=CHECKPOINT_FOLDER, help="folder for what the run leaves")
    parser.add_argument("--bs", type=number(1), default=16, help="patches per step")
    parser.add_argument("--lr", type=positive, default=0.001, help="learning rate of Adam; x0.2 at 80 %% and 90 %% of the epochs")
    parser.add_argument("--epochs", type=number(1), default=30, help="an epoch is every tile of every strip once")
    parser.add_argument("--gpu_id", type=number(-1), default=None, help="-1: CPU; default: the first GPU, else the CPU")
    add_image_type(parser, default="strip")
    add_img_format(parser, default="tiff")
    parser.add_argument(
        "--num_defects_range", type=number(3), nargs=2, default=[3, 8], metavar=("MIN", "MAX"), help="painted per patch"
    )
    add_true_or_false(parser, "--use_mask", help="use the masks of valid/ and test/; False: image figures only")
    parser.add_argument(
        "--seed", type=number(0, LARGEST_SEED), default=42, help="the same seed gives the same run with any number of workers"
    )
    parser.add_argument(
        "--cache_size", type=number(0), default=0, help="decoded strips kept by each worker; uncompressed TIFFs need none"
    )
    parser.add_argument("--gamma_start", type=positive, default=1.0, help="focal loss gamma of the first epoch")
    parser.add_argument("--gamma_end", type=positive, default=3.0, help="focal loss gamma of the last epoch")
    parser.add_argument("--num_workers", type=number(0), default=None, help="loader processes; default: 4 on a GPU, 0 on the CPU")
    parser.add_argument("--base_channels", type=number(1), default=64, help="width of the first level; 16 suits a CPU")
    parser.add_argument("--input_max", type=positive, default=DEFAULT_INPUT_MAX, help="largest value that the camera can deliver")
    parsed = parser.parse_args(arguments)
    if parsed.num_defects_range[0] > parsed.num_defects_range[1]:
        parser.error(f"--num_defects_range: found {parsed.num_defects_range}, expected MIN no larger than MAX")
    return parsed


def train(arguments: argparse.Namespace) -> Path:
    """Run a training to its end and return the best checkpoint's path. Raises `UserError` for input that cannot be trained on."""
    device = choose_device(arguments.gpu_id)
    dataset = find_dataset(arguments)
    training = Training(arguments, dataset, device)
    print(training.describe())
    best_path = training.run()
    if dataset.test:
        score_test_strips(best_path, dataset.test, arguments, device)
    return best_path


class Training:
    """One run: the network, what moves it, its history, and the files that it leaves."""

    def __init__(self, arguments: argparse.Namespace, dataset: Dataset, device: torch.device):
        self.arguments, self.dataset, self.device = arguments, dataset, device
        self.patches = training_patches(arguments, dataset)
        self.sampler = EpochSampler(len(self.patches), arguments.seed)
        self.loader = training_loader(arguments, self.patches, self.sampler, device)
        torch.manual_seed(arguments.seed)
        network = SegmentationNetwork(base_channels=arguments.base_channels)
        self.network = network.to(device, memory_format=torch.channels_last)  # faster, on the CPU too
        self.optimizer = torch.optim.Adam(network.parameters(), lr=arguments.lr)
        drops = [math.ceil(arguments.epochs * share) for share in LR_DROPS]
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, drops, LR_FACTOR)
        self.focal_loss = FocalLoss()
        self.metric = selection_metric(dataset)
        self.history: list[dict[str, float | None]] = []
        self.best = -math.inf

    def file(self, suffix: str) -> Path:
        """A file of this run."""
        return self.arguments.checkpoint_path / f"{run_name(self.arguments, self.dataset.image_size)}{suffix}"

    def run(self) -> Path:
        """Train all epochs, keeping the last and the best checkpoint after each; returns the best one's path."""
        save_samples(self.file("_samples.png"), painted_samples(self.patches))
        with tqdm(total=self.arguments.epochs * len(self.loader), unit="step", disable=None) as progress:
            for epoch in range(self.arguments.epochs):
                self.history.append(self._train_epoch(epoch, progress) | self._validate())
                self._save()
                tqdm.write(describe_epoch(self.history[-1]))
        return self.file(BEST_SUFFIX)

    def describe(self) -> str:
        counts = [len(strips) for strips in (self.dataset.train, self.dataset.valid, self.dataset.test)]
        by = f"best checkpoint by {readable(self.metric)} on valid/" if self.metric else "without valid/ the last epoch is the best"
        return (
            f"strips: {counts[0]} good ones to train on, {counts[1]} to validate, {counts[2]} to test, "
            f"of {self.dataset.image_size} (height, width); {len(self.patches)} patches per epoch\n"
            f"network: {self.arguments.base_channels} base channels, on {self.device}; {by}"
        )

    def _train_epoch(self, epoch: int, progress: tqdm) -> dict[str, float | None]:
        """One pass over all patches. Raises `UserError` when the loss is no longer finite."""
        settings, lr = self.arguments, self.schedule.get_last_lr()[0]
        gamma = gamma_at(epoch, settings.epochs, settings.gamma_start, settings.gamma_end)
        progress.set_description(f"epoch {epoch + 1}/{settings.epochs}, gamma {gamma:.2f}, lr {lr:.2g}")
        self.sampler.epoch = epoch
        self.network.train()
        total = torch.zeros((), device=self.device)
        for step, batch in enumerate(batches(self.loader), start=1):
            total += self._step(batch, gamma)
            if step % STEPS_PER_READING == 0:
                progress.set_postfix(loss=f"{total.item() / step:.2e}", refresh=False)
            progress.update()
        loss = total.item() / len(self.loader)
        if not math.isfinite(loss):
            raise UserError(f"the loss became {loss} in epoch {epoch + 1}: a lower --lr may help; saved checkpoints are as before")
        self.schedule.step()
        return {"epoch": epoch + 1, "loss": loss, "gamma": gamma, "lr": lr}

    def _step(self, batch: dict[str, torch.Tensor], gamma: float) -> torch.Tensor:
        images = batch["three_channel_input"].to(self.device, non_blocking=True, memory_format=torch.channels_last)
        masks = batch["target_mask"].to(self.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.focal_loss(self.network(images), masks, gamma)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _validate(self) -> dict[str, float | None]:
        if not self.dataset.valid:
            return {}
        predictor = TorchPredictor(self.network, self.patches.patch, self.device)
        result = evaluate(predictor, self.dataset.valid, self.arguments.input_max, label="validation")
        if result.problems:  # every strip was fine before the first epoch: files changed, or the network broke
            raise UserError(f"validation: {result.problems[0]}")
        return {f"{VALID}{name}": value for name, value in result.figures.items()}

    def _save(self) -> None:
        content = self._checkpoint()
        save_checkpoint(self.file(".pth"), content)
        value = self.history[-1][self.metric] if self.metric else None
        if value is None or value > self.best:
            save_checkpoint(self.file(BEST_SUFFIX), content)
            self.best = self.best if value is None else value
        save_curves(self.file("_curves.png"), self.history)

    def _checkpoint(self) -> dict[str, Any]:
        flags = {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in vars(self.arguments).items()}
        return flags | {
            "network": NETWORK_NAME,
            "model_state_dict": dict(self.network.state_dict()),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scheduler_state_dict": self.schedule.state_dict() | {"milestones": dict(self.schedule.milestones)},
            "epoch": len(self.history),
            "img_height": self.dataset.image_size[0],
            "img_width": self.dataset.image_size[1],
            "history": self.history,
        }


def find_dataset(arguments: argparse.Namespace) -> Dataset:
    """The strips to train, validate and test on, every one inspected. Raises a `UserError` that names all bad files."""
    patch = PATCH_SIZES[arguments.image_type]
    groups, size, problems = {}, None, []
    for split in ("train", "valid", "test"):
        folder = arguments.training_dataset_path if split == "train" else split_beside(arguments.training_dataset_path, split)
        groups[split] = []
        if folder is None:
            continue
        strips = list_strips(folder, arguments.img_format, use_masks=arguments.use_mask and split != "train")
        inspection = inspect_strips(strips, arguments.input_max, patch, size)
        size = size or inspection.image_size
        groups[split] = inspection.usable
        problems += inspection.problems
    if problems:
        listed = "\n  ".join(problems)
        raise UserError(f"files that cannot be used: {len(problems)}\n  {listed}")
    return Dataset(size, **groups)


def run_name(arguments: argparse.Namespace, image_size: tuple[int, int]) -> str:
    height, width = image_size
    return f"BgRemoval_lr{arguments.lr}_ep{arguments.epochs}_bs{arguments.bs}_{height}x{width}_{arguments.image_type}"


def training_patches(arguments: argparse.Namespace, dataset: Dataset) -> StripPatches:
    return StripPatches(
        [strip.path for strip in dataset.train],
        dataset.image_size,
        PATCH_SIZES[arguments.image_type],
        tuple(arguments.num_defects_range),
        arguments.seed,
        arguments.input_max,
        arguments.cache_size,
    )


def painted_samples(patches: StripPatches) -> list[dict[str, np.ndarray]]:
    """The first few painted samples of the first epoch, spread over the strips."""
    step = max(1, len(patches) // (4 * SAMPLES_SHOWN))
    samples = (patches[index] for index in range(0, len(patches), step))
    painted = [sample for sample in samples if sample["target_mask"].any()][:SAMPLES_SHOWN]
    return [{name: tensor.numpy() for name, tensor in sample.items()} for sample in painted or [patches[0]]]


def training_loader(
    arguments: argparse.Namespace, patches: StripPatches, sampler: EpochSampler, device: torch.device
) -> DataLoader:
    on_gpu = device.type == "cuda"
    workers = (4 if on_gpu else 0) if arguments.num_workers is None else arguments.num_workers
    return DataLoader(
        patches,
        arguments.bs,
        sampler=sampler,
        num_workers=workers,
        pin_memory=on_gpu,
        persistent_workers=workers > 0,
    )


def batches(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    """The loader's batches. A `UserError` from a worker process comes with that process's traceback: here without it."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).strip().splitlines()[-1].removeprefix("errors.UserError: ")) from None


def selection_metric(dataset: Dataset) -> str | None:
    """The figure that the best checkpoint has most of: as close to the job as the validation strips allow."""
    kinds = {strip.is_defective for strip in dataset.valid}
    if any(strip.mask for strip in dataset.valid):
        return f"{VALID}pixel_average_precision"
    return f"{VALID}image_average_precision" if {True, False} <= kinds else None


def score_test_strips(best_path: Path, strips: list[StripFile], arguments: argparse.Namespace, device: torch.device) -> None:
    """Score the file that was saved, as an inference would, and write what it found beside it."""
    network = build_network(load_checkpoint(best_path), best_path)
    folder = best_path.with_name(best_path.name.removesuffix(BEST_SUFFIX) + "_test")
    predictor = TorchPredictor(network, PATCH_SIZES[arguments.image_type], device)
    result = evaluate(predictor, strips, arguments.input_max, "test", folder, TEST_PICTURES_PER_KIND)
    write_results(folder, result)
    print(f"{best_path.name} on {len(result.scores)} test strips, which it has never seen:")
    for line in [*describe_figures(result.figures), f"pictures and scores are in {folder}"]:
        print(f"  {line}")
    if result.problems:  # every strip was fine before the first epoch
        raise UserError("\n".join(result.problems))


def describe_epoch(entry: dict[str, float | None]) -> str:
    figures = [f"{readable(name)} {value:.4f}" for name, value in entry.items() if name.startswith(VALID) and value is not None]
    return ", ".join([f"epoch {entry['epoch']:3}: loss {entry['loss']:.3e}", f"gamma {entry['gamma']:.2f}", *figures])


def readable(name: str) -> str:
    return name.removeprefix(VALID).replace("_", " ")


def main() -> int:
    best_path = train(parse_args())
    print(f"best checkpoint: {best_path}")
    is_default = best_path.absolute().parent == Path(__file__).absolute().parent / CHECKPOINT_FOLDER
    exporting = f"python export_onnx_fullimage.py --checkpoint_path '{best_path}'"
    print(f"next: {'bash inference_onnx.sh' if is_default else exporting}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
