"""The trainings of benchmarks/classifier.py, which are kept, and what is measured of them."""

import json
import shutil
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch

from benchmarks.classifier_data import read_all
from benchmarks.classifier_rows import TARGET_ERROR
from benchmarks.classifier_trees import TreesClassifier, picture_measures
from benchmarks.command_line import as_words, digest
from classifier.calibration import confidence_for_error
from classifier.defect_checkpoint import LAST, checkpoint_in
from classifier.defect_data import SPLITS, list_labelled, order_kinds
from classifier.folder_images import list_folder_images
from classifier.loaded_classifier import load_classifier
from classifier.metrics import accuracy, balanced_accuracy, confusion_matrix
from classifier.prediction_figures import summarize
from classifier.predictions import SURE, ImagePrediction, choose_limits, predict_images
from classifier.train_defect_model import parse_args, train
from data.folder import GOOD
from evaluation.metrics import image_figures

BATCH = 32
TARGET_UNKNOWN = 0.01
TIME = "cpu_seconds.json"  # in a run's folder

Result = dict[str, object]  # as JSON holds it


def train_once(folder: Path, root: Path, flags: list[object], seed: int) -> Path:
    """The folder of a finished run; trains where it is missing, and goes on where it stopped."""
    words = [*flags, "--seed", seed, "--gpu_id", -1, "--num_workers", 0]
    run = folder / f"{root.name}_seed{seed}_{digest(words)}"
    if (run / TIME).exists():
        return run
    if (run / LAST).exists():
        words = ["--resume", run]
    else:
        shutil.rmtree(run, ignore_errors=True)  # interrupted before its first checkpoint
        words = ["--data_root", root, "--save_dir", run, *words]
    run.mkdir(parents=True, exist_ok=True)
    begin = time.process_time()
    with (run.parent / f"{run.name}.log").open("a") as log, redirect_stdout(log):
        train(parse_args(as_words(*words)))
    (run / TIME).write_text(json.dumps(time.process_time() - begin))
    return run


def score_run(run: Path, root: Path, averages_flips: bool = False) -> Result:
    """What a run's best checkpoint by balanced accuracy says of test/."""
    device = torch.device("cpu")
    best = checkpoint_in(run)  # of two stages, in the folder of the second one
    classifier = load_classifier(best, root, device, averages_flips)
    limits, _ = choose_limits(classifier, TARGET_ERROR, TARGET_UNKNOWN)
    images = list_folder_images(root / "test", True, classifier.kinds)
    found = predict_images(classifier, images, limits, BATCH, lambda *_: None, [])
    targets = {"target_error": TARGET_ERROR, "target_unknown": TARGET_UNKNOWN}
    summary = summarize(found, classifier.kinds, classifier.calibration, limits, targets, [])
    of_kinds = {}
    for kind in classifier.kinds:
        ious = [one.iou for one in found if one.image.kind == kind and one.iou is not None]
        recall = summary["by_kind"][kind]["recall"]
        of_kinds[kind] = {"recall": recall, "iou": float(np.mean(ious)) if ious else None}
    calibration = summary["calibration"]
    names = ("accuracy", "balanced_accuracy", "image_auroc", "iou", "dice", "good_masked")
    seconds = run / TIME
    return {
        **{name: summary[name] for name in names},
        "kinds": of_kinds,
        "confusion": summary["confusion"],
        "ece": calibration["expected_calibration_error"],
        "ece_before": calibration["expected_calibration_error_before"],
        "temperature": calibration["temperature"],
        "error_of_sure": summary["error_of_sure"],
        "sure": summary["statuses"][SURE] / summary["images"],
        **_sure_of_rest(found),
        "cpu_seconds": json.loads(seconds.read_text()) if seconds.exists() else None,
        "curve": _curve(best.parent),
    }


def _sure_of_rest(found: list[ImagePrediction]) -> dict[str, float | None]:
    """What a limit for TARGET_ERROR from three fifths of the images does on the others.

    The limit of valid/ says the same where valid/ is large enough.
    """
    confidences = np.array([one.confidence for one in found])
    is_right = np.array([one.is_right for one in found], bool)
    sets = np.arange(len(found)) % 5 < 3
    lowest = confidence_for_error(confidences[sets], is_right[sets], TARGET_ERROR)
    is_sure = confidences[~sets] >= lowest
    wrong = ~is_right[~sets][is_sure]
    return {
        "sure_of_rest": float(is_sure.mean()),
        "error_of_sure_of_rest": float(wrong.mean()) if len(wrong) else None,
    }


def _curve(run: Path) -> list[list[float | None]]:
    """Epoch, balanced accuracy and IoU on valid/, of each epoch."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("epoch", "valid_balanced_accuracy", "valid_iou")
    return [[line.get(name) for name in names] for line in lines]


def score_trees(root: Path) -> Result:
    """What boosted trees on hand-made measures say of test/."""
    begin = time.process_time()
    pictures = {split: list_labelled(root, split) for split in SPLITS}
    kinds = order_kinds(picture.kind for picture in pictures["train"])
    measured = {}
    for split in ("train", "test"):
        images, labels = read_all(pictures[split], kinds)
        measured[split] = np.stack([picture_measures(image) for image in images]), labels
    trees = TreesClassifier(*measured["train"])
    measures, labels = measured["test"]
    probabilities = trees.probabilities(measures, len(kinds))
    confusion = confusion_matrix(labels, probabilities.argmax(axis=1), len(kinds))
    recalls = np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)
    scores = (1 - probabilities[:, 0]).tolist()
    figures = image_figures((labels > 0).tolist(), scores) if kinds[0] == GOOD else {}
    return {
        "accuracy": accuracy(confusion),
        "balanced_accuracy": balanced_accuracy(confusion),
        "image_auroc": figures.get("image_auroc"),
        "kinds": {kind: {"recall": float(one)} for kind, one in zip(kinds, recalls)},
        "confusion": confusion.tolist(),
        "cpu_seconds": time.process_time() - begin,
    }


def score_unknown(run: Path, root: Path, kind: str) -> Result:
    """How well the distance to the training's images tells a kind that it lacked from the others.

    `auroc` is that against all other images of test/, `auroc_defects` against other defects, and
    `called_unknown` the share of the kind's images beyond the limit.
    """
    classifier = load_classifier(checkpoint_in(run), None, torch.device("cpu"))
    limits, _ = choose_limits(classifier, None, TARGET_UNKNOWN)
    names = (*classifier.kinds, kind)
    images = list_folder_images(root / "test", True, names)
    distances, is_new, is_good = [], [], []
    for image in images:
        fitted, _ = read_all([image.picture], names)
        distances.append(float(classifier.predict(np.stack(fitted) / 255)["distance"][0]))
        is_new.append(image.kind == kind)
        is_good.append(image.kind == GOOD)
    new, values = np.array(is_new), np.array(distances)
    defects = ~np.array(is_good)
    return {
        "auroc": image_figures(new.tolist(), values.tolist())["image_auroc"],
        "auroc_defects": image_figures(new[defects].tolist(), values[defects].tolist())[
            "image_auroc"
        ],
        "called_unknown": float((values[new] > limits.highest_known).mean()),
    }
