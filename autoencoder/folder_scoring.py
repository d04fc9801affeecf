"""Score a folder of pictures, as inference in PyTorch and in ONNX Runtime do.

The folder is taken in before anything is computed. Then the thresholds are set, all files are
written, and the metrics are printed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from autoencoder.calibration import GoodScores
from autoencoder.clusters import titled
from autoencoder.first_jump import BASE, FACTOR, first_jump
from autoencoder.submission import SUBMISSION, write_submission
from common.errors import UserError
from common.notes import warn
from common.pipeline import StageTimes
from common.progress import progress_bar
from common.settings import from_values
from data.ignored_regions import IgnoredRegions
from data.image_files import Channels
from data.pictures import PictureFile, read_picture
from evaluation.matching import MATCH_RADIUS
from evaluation.stream import Predictor, iter_predictions
from evaluation.thresholds import ScoreThreshold, Threshold
from reporting.score_pictures import PictureSettings, score_pictures, take_in
from reporting.scored_folder import Intake

# the thresholds of the clusters, 0-1, and whether there are panels, to the predictor
MakePredictor = Callable[[list[float], bool], Predictor]


@dataclass(frozen=True, kw_only=True)
class FolderScoring:
    """How a folder is scored; the fields are named like the flags.

    `channels` and `input_max` are the model's. `threshold` lies in 0-1 (None: set on good
    pictures).
    """

    output_dir: Path
    channels: Channels
    input_max: float
    target_false_alarms: float
    good_path: Path | None = None
    img_format: str | None = None
    use_ground_truth_mask: bool = True
    threshold: float | None = None
    first_jump: bool = False
    jump_base: int = BASE
    jump_factor: float = FACTOR
    min_area: int = 1
    polarity: str = "both"
    match_radius: float = MATCH_RADIUS
    candidates: int = 0
    pictures_per_kind: int | None = None

    @property
    def pictures(self) -> PictureSettings:
        """The part that reporting knows."""
        return from_values(PictureSettings, vars(self))


def take_in_pictures(folder: Path, settings: FolderScoring) -> Intake:
    """As `take_in`. Raises `UserError` for a folder too small for --first_jump, too."""
    others = [settings.good_path] if settings.good_path else []
    intake = take_in(folder, settings.pictures, others)
    count = len(intake.verification.usable)
    if settings.first_jump and count <= settings.jump_base:
        raise UserError(
            f"--first_jump: found {count} picture{'' if count == 1 else 's'} in {folder}, expected "
            f"more than --jump_base {settings.jump_base}: a jump needs the whole folder"
        )
    return intake


def score_taken_in(
    intake: Intake,
    make_predictor: MakePredictor,
    name: str,
    good: GoodScores,
    settings: FolderScoring,
    shown: dict[str, object],
) -> int:
    """Score the pictures that were taken in, and write all files.

    `name` is the model's and `shown` its settings, for the report. `good` has the scores of
    held-out good pictures.

    Returns the command's exit code: 1 when some pictures could not be used, else 0. Raises
    `UserError` when none can.
    """
    threshold, of_clusters = choose_thresholds(intake, make_predictor, good, settings)
    return score_pictures(
        make_predictor(of_clusters, settings.pictures_per_kind != 0),
        name,
        intake,
        threshold,
        settings.pictures,
        shown,
        partial(write_submission, settings.output_dir),
        (SUBMISSION,),
    )


def choose_thresholds(
    intake: Intake, make_predictor: MakePredictor, good: GoodScores, settings: FolderScoring
) -> tuple[Threshold, list[float]]:
    """The threshold to print, and the values of all clusters, as --threshold and others ask."""
    count = len(good.names)
    if settings.threshold is not None:
        return ScoreThreshold(settings.threshold, "as given"), [settings.threshold] * count
    if settings.first_jump:
        print("scoring all pictures, to find the first jump in their scores", flush=True)
        threshold = jump_threshold(
            scores_of(make_predictor([1.0] * count, False), intake.verification.usable, settings),
            settings,
        )
        return threshold, [threshold.value] * count
    for cluster in good.poor_clusters:
        warn(
            f"{titled(cluster)}: found fewer held-out good pictures than statistics need, so it "
            "has those of all clusters"
        )
    own = good.thresholds(settings.target_false_alarms)
    return good.joint_threshold(settings.target_false_alarms), [each.value for each in own]


def scores_of(
    predictor: Predictor, pictures: list[PictureFile], settings: FolderScoring
) -> list[float]:
    """The scores of all pictures that can be used."""
    predictions = iter_predictions(
        predictor,
        pictures,
        lambda picture: (read_picture(picture, settings.input_max)[0], None),
        IgnoredRegions(),
        StageTimes(),
    )
    progress = progress_bar(predictions, "scoring pictures", len(pictures), unit="picture")
    return [entry.score for entry in progress if not isinstance(entry, UserError)]


def jump_threshold(scores: list[float], settings: FolderScoring) -> ScoreThreshold:
    """The threshold at the first jump in scores 0-1, which are compared as z-scores.

    Without a jump nothing is above the threshold: all pictures are like one another.
    """
    found = first_jump(z_scores(scores), settings.jump_base, settings.jump_factor)
    if found is None:
        return ScoreThreshold(1.0, "--first_jump: found no jump in the scores of the folder")
    tail = 1 / (1 + abs(found) + np.sqrt(found * found + 1))
    value = 1 - tail if found > 0 else tail
    return ScoreThreshold(float(value), "the first jump in the scores of the folder")


def z_scores(scores: list[float]) -> np.ndarray:
    """The z-scores that `scorer.to_unit` told as scores 0-1."""
    inside = np.clip(np.array(scores), 1e-12, 1 - 1e-12)
    return np.sinh(np.log(inside) - np.log1p(-inside))
