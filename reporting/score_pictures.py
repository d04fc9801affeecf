"""Score a folder of pictures without references, with any predictor: all that follows the model.

`take_in` lists and verifies the pictures, and `score_pictures` evaluates them and writes the files
of the folder. A tool chooses the threshold in between.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.notes import warn
from data.folder import describe_kinds
from data.image_files import DEFAULT_INPUT_MAX, Channels
from data.pictures import (
    describe_groups,
    list_pictures,
    read_picture,
    truth_without_picture,
    verify_pictures,
)
from data.value_range import range_warning, scale_warning
from evaluation.evaluate import evaluate
from evaluation.matching import MATCH_RADIUS
from evaluation.results import Evaluation, Rules
from evaluation.stream import BatchPredictor, Predictor
from evaluation.thresholds import Threshold
from reporting.pictures import StripWriter
from reporting.scored_folder import (
    Intake,
    make_output_folder,
    require_output_elsewhere,
    require_usable,
    score_into,
    write_scored,
)


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """How a folder of pictures is scored.

    `channels` are those that the model takes, and `input_max` is the camera's largest value.
    `trained_range` is the training's `ValueRange.usual`, None where it is not known. `min_area` and
    `match_radius` are in pixels. Panels are drawn for the first `pictures_per_kind` pictures of
    each kind (None: for all).
    """

    output_dir: Path
    channels: Channels | None = None
    input_max: float = DEFAULT_INPUT_MAX
    img_format: str | None = None
    use_ground_truth_mask: bool = True
    trained_range: list[float] | None = None
    min_area: int = 1
    polarity: str = "both"
    match_radius: float = MATCH_RADIUS
    candidates: int = 0
    pictures_per_kind: int | None = None


def take_in(folder: Path, settings: PictureSettings, others: Sequence[Path] = ()) -> Intake:
    """Verify the pictures of a folder, print what they hold, and make the output folder.

    `folder` is as in `list_pictures`. `others` are folders that are read as well, such as that of
    good pictures. Raises `UserError` when no picture can be used, and when the output folder lies
    among the pictures.
    """
    require_output_elsewhere(settings.output_dir, (folder, *others), "picture")
    use_masks = settings.use_ground_truth_mask
    pictures = list_pictures(folder, settings.img_format, use_masks, settings.channels)
    verification = verify_pictures(pictures, settings.input_max)
    require_usable(folder, len(pictures), verification, "picture")
    values, trained = verification.values, settings.trained_range
    for line in (describe_groups(verification.usable), describe_kinds(verification.usable)):
        if line:
            print(line)
    print(values.describe(settings.input_max))
    scale = range_warning(values, trained) if trained else scale_warning(values, settings.input_max)
    warnings = [scale] if scale else []
    for warning in warnings:
        warn(warning, is_serious=True)
    make_output_folder(settings.output_dir)
    unused = truth_without_picture(folder) if use_masks else []
    return Intake(folder, settings.output_dir, verification, len(pictures), warnings, unused)


def score_pictures(
    predictor: Predictor | BatchPredictor,
    name: str,
    intake: Intake,
    threshold: Threshold,
    settings: PictureSettings,
    shown: dict[str, object],
    write_more: Callable[[Evaluation], None] | None = None,
    more_tables: Sequence[str] = (),
    baselines: dict[str, Predictor] | None = None,
) -> int:
    """Score the pictures that were taken in, write all files, and print the metrics.

    The verdict goes by score. `name` is the model's and `shown` its settings, for the report.
    `write_more` writes further files of the folder, whose names are `more_tables`.

    Returns the command's exit code: 1 when some pictures could not be used, else 0. Raises
    `UserError` when none can.
    """
    print(threshold.describe())
    rules = Rules(
        threshold,
        settings.min_area,
        settings.polarity,
        settings.match_radius,
        candidates=settings.candidates,
        verdict_by_score=True,
    )

    def write(result: Evaluation) -> list[str]:
        write_scored(settings.output_dir, name, intake.folder, result, threshold, shown)
        if write_more:
            write_more(result)
        return []

    return score_into(
        intake,
        lambda: evaluate(
            predictor,
            intake.verification.usable,
            settings.input_max,
            "scoring pictures",
            settings.use_ground_truth_mask,
            rules=rules,
            baselines=baselines,
            on_strip=StripWriter(settings.output_dir, settings.pictures_per_kind),
            load=read_picture,
        ),
        write,
        more_tables,
    )
