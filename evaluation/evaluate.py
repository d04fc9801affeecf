"""A predictor run over strips: detections, verdicts and figures. Both inference scripts and the trainer are thin around it."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import tifffile
from tqdm import tqdm

from common.distributed import ALONE, Processes
from common.errors import UserError, about
from common.files import replace_file
from common.pipeline import READERS, WRITERS, Backlog, StageTimes, grouped, in_order, threads
from data.folder import GOOD, StripFile
from data.ignored_regions import IgnoredRegions
from data.recipes import paint_strip
from dataloader import DEFAULT_INPUT_MAX, load_image, load_mask
from evaluation.detections import Detection, PackedDetections, detect, find_peaks
from evaluation.matching import FALSE_ALARM, MATCH_RADIUS, NO_MATTER, Truth, match, outcome_of, truths_of
from evaluation.metrics import PixelFigures, PointFigures, image_figures
from evaluation.thresholds import Threshold
from evaluation.worst_cases import Gallery
from reporting.pictures import save_panels

BROKEN_NETWORK = "the model's weights are broken"
ROUNDING = 1e-6  # by which a softmax may exceed 1
Predictor = Callable[[np.ndarray], np.ndarray]  # (3, H, W) grey levels 0-255 to a heatmap (H, W) of probabilities 0-1
Measure = Callable[[np.ndarray], dict[str, float]]  # (3, H, W) grey levels 0-255 to what is known of its channels, by name
Figures = dict[str, float | None]
Load = Callable[[StripFile], tuple[np.ndarray, np.ndarray | None]]  # to an image and its mask, as `read_strip`


@runtime_checkable
class BatchPredictor(Protocol):
    """A predictor of `batch` strips at once: `prepare` one strip in any thread, then `answer` up to `batch` prepared ones."""

    batch: int

    def prepare(self, image: np.ndarray) -> np.ndarray: ...

    def answer(self, prepared: list[np.ndarray]) -> Sequence[np.ndarray]: ...


class OneByOne:
    """Any predictor as a `BatchPredictor`."""

    batch = 1

    def __init__(self, predictor: Predictor):
        self.predictor = predictor

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return image

    def answer(self, prepared: list[np.ndarray]) -> list[np.ndarray]:
        return [self.predictor(image) for image in prepared]


@dataclass(frozen=True)
class Answer:
    """A strip that was read, (3, H, W) grey levels 0-255, and what a predictor says of it, (H, W) float32 0-1, 0 where ignored.

    `mask` and `ignored` are (H, W) bool; None where it is not known what is a defect, and where everything counts.
    """

    strip: StripFile
    image: np.ndarray
    mask: np.ndarray | None
    ignored: np.ndarray | None
    heatmap: np.ndarray


@dataclass(frozen=True)
class _Loaded:
    strip: StripFile
    image: np.ndarray
    mask: np.ndarray | None
    ignored: np.ndarray | None
    prepared: np.ndarray


@dataclass(frozen=True)
class Rules:
    """What is a detection, what has found a true defect, and what does not count; `patch` tells where the seams of tiles lie.

    Without a threshold there are figures, but no detections and no verdicts.
    """

    threshold: Threshold | None = None
    min_area: int = 1
    polarity: str = "both"
    match_radius: float = MATCH_RADIUS
    ignored: IgnoredRegions = field(default_factory=IgnoredRegions)
    patch: int | None = None
    measure: Measure | None = None


@dataclass
class StripResult:
    """One strip: its heatmap's maximum, its detections above the threshold, strongest first, and what is known of them.

    `truths` is how many true defects there are, `found` which of them each detection has found, as of `match`; both None where the
    truth is not known.
    """

    strip: StripFile
    score: float
    detections: Sequence[Detection] = ()
    truths: int | None = None
    found: np.ndarray | None = None
    statistics: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        return "NG" if self.detections else "OK"

    @property
    def statuses(self) -> list[str]:
        """Of each detection: `hit`, `false alarm`, `no matter` (one more on a defect already found), or empty: not known."""
        if self.found is None:
            return [""] * len(self.detections)
        return [{FALSE_ALARM: "false alarm", NO_MATTER: "no matter"}.get(number, "hit") for number in self.found.tolist()]


class Scoreboard:
    """All figures of one predictor over the strips that it has scored."""

    def __init__(self) -> None:
        self.labelled: list[tuple[bool, float]] = []
        self.pixels, self.points = PixelFigures(), PointFigures()

    def add(self, strip: StripFile, heatmap: np.ndarray, truth: "GroundTruth | None", radius: float) -> None:
        if strip.is_defective is not None:
            self.labelled.append((strip.is_defective, float(heatmap.max())))
        if truth:
            self.pixels.add(heatmap, truth.mask, truth.ignored)
            self.points.add(outcome_of(find_peaks(heatmap), truth.truths, truth.labels, radius))

    def merge(self, others: "list[Scoreboard]") -> None:
        self.labelled = [entry for other in others for entry in other.labelled]
        self.pixels.merge([other.pixels for other in others])
        self.points.merge([other.points for other in others])

    def figures(self) -> Figures:
        labels, scores = [label for label, _ in self.labelled], [score for _, score in self.labelled]
        return image_figures(labels, scores) | self.pixels.figures() | self.points.figures()


@dataclass(frozen=True)
class GroundTruth:
    """What is true of a strip: mask, (H, W) bool; its truths; each pixel's truth; and the pixels that do not count."""

    mask: np.ndarray
    truths: list[Truth]
    labels: np.ndarray
    ignored: np.ndarray | None


@dataclass
class Evaluation:
    """What came out: a result for every strip that could be read, all figures, and a line for every strip that could not.

    Figures are worked out once, when they are first asked for: after the last strip.
    """

    results: list[StripResult] = field(default_factory=list)
    board: Scoreboard = field(default_factory=Scoreboard)
    rivals: dict[str, Scoreboard] = field(default_factory=dict)
    gallery: Gallery = field(default_factory=Gallery)
    problems: list[str] = field(default_factory=list)
    times: StageTimes = field(default_factory=StageTimes)

    @property
    def boards(self) -> dict[str, Scoreboard]:
        """The detector's and its rivals', by what a table calls them."""
        return {"this detector": self.board, **self.rivals}

    @cached_property
    def figures_by_detector(self) -> dict[str, Figures]:
        return {name: board.figures() for name, board in self.boards.items()}

    @property
    def figures(self) -> Figures:
        """The detector's own."""
        return self.figures_by_detector["this detector"]

    @cached_property
    def point_recalls(self) -> list[dict[str, object]]:
        """As `PointFigures.table`, of the detector."""
        return self.board.points.table()

    def at_threshold(self) -> Figures:
        """`recall` and `false_alarms_per_strip` of the detections above the threshold; None where no truth is known."""
        known = [result for result in self.results if result.truths is not None]
        truths = sum(result.truths for result in known)
        counts = Counter(status for result in known for status in result.statuses)
        return {
            "recall": counts["hit"] / truths if truths else None,
            "false_alarms_per_strip": counts["false alarm"] / len(known) if known else None,
        }


def evaluate(
    predictor: Predictor | BatchPredictor,
    strips: list[StripFile],
    input_max: float = DEFAULT_INPUT_MAX,
    label: str = "scoring strips",
    output_dir: Path | None = None,
    pictures_per_kind: int | None = None,
    use_masks: bool = True,
    processes: Processes = ALONE,
    rules: Rules | None = None,
    rivals: dict[str, Predictor] | None = None,
) -> Evaluation:
    """Score every strip by its heatmap's maximum. What is wrong with one strip ends up in `problems`; the others go on.

    With `output_dir` every strip's heatmap (float32 TIFF, probabilities) and seven panels (PNG; of the first
    `pictures_per_kind` of each kind only, None: all) are written there under the sub-folders that they came from. `rivals` are
    scored beside the predictor, for their figures alone. With several `processes` each scores its share, and all of them get the
    whole result. Of a strip only its detections are kept.
    """
    rules, rivals, seen = rules or Rules(), rivals or {}, Counter()
    result = Evaluation(rivals={name: Scoreboard() for name in rivals})
    share, load = processes.share(strips), partial(read_strip, input_max=input_max)
    answers = answers_of(predictor, share, load, rules.ignored, result.times)
    progress = tqdm(answers, label, len(share), unit="strip", disable=processes.hides_progress, leave=False)
    with result.times.of_all(), threads(WRITERS) as writers:
        writing = Backlog(writers, 2 * WRITERS)
        for answer in progress:
            if isinstance(answer, UserError):
                result.problems.append(str(answer))
                continue
            with result.times.of("post-processing"):
                try:
                    scored = _score(result, answer, rules, rivals, use_masks)
                except UserError as error:
                    result.problems.append(str(error))
                    continue
            seen[answer.strip.kind] += 1
            if output_dir:
                draw = pictures_per_kind is None or seen[answer.strip.kind] <= pictures_per_kind
                writing.add(_write_strip, output_dir, scored, answer, draw, result.times)
        writing.finish()
    return _gather(result, processes)


def answers_of(
    predictor: Predictor | BatchPredictor, strips: list[StripFile], load: Load, regions: IgnoredRegions, times: StageTimes
) -> Iterator[Answer | UserError]:
    """What a predictor says of each strip, in their order, or what is wrong with it. The next strips are read meanwhile."""
    batches = predictor if isinstance(predictor, BatchPredictor) else OneByOne(predictor)

    def read(strip: StripFile) -> _Loaded | UserError:
        try:
            with times.of("loading"):
                image, mask = load(strip)
                ignored = regions.of(strip.path, image.shape[1:])
            with times.of("preprocessing"), about(strip.path):
                return _Loaded(strip, image, mask, ignored, batches.prepare(image))
        except UserError as error:
            return error

    with threads(READERS) as readers:
        for group in grouped(in_order(readers, read, strips, batches.batch + READERS), batches.batch):
            with times.of("inference"):
                heatmaps = iter(_answer(batches, [entry for entry in group if isinstance(entry, _Loaded)]))
            for entry in group:
                yield entry if isinstance(entry, UserError) else _checked(entry, next(heatmaps), times)


def _answer(batches: BatchPredictor, group: list[_Loaded]) -> Sequence[np.ndarray | UserError]:
    """The heatmaps of strips; where one of them cannot be answered, each is asked for alone, so that the others are not lost."""
    try:
        return batches.answer([entry.prepared for entry in group]) if group else []
    except UserError as error:
        return [error] if len(group) == 1 else [heatmap for entry in group for heatmap in _answer(batches, [entry])]


def _checked(entry: _Loaded, heatmap: np.ndarray | UserError, times: StageTimes) -> Answer | UserError:
    try:
        with times.of("post-processing"), about(entry.strip.path):
            if isinstance(heatmap, UserError):
                raise heatmap
            return Answer(entry.strip, entry.image, entry.mask, entry.ignored, _probabilities(heatmap, entry.ignored))
    except UserError as error:
        return error


def _score(result: Evaluation, answer: Answer, rules: Rules, rivals: dict[str, Predictor], use_masks: bool) -> StripResult:
    """Enter a strip into the result. Raises `UserError`, and enters nothing, for a rival that cannot answer."""
    strip, image, heatmap = answer.strip, answer.image, answer.heatmap
    rivals_heatmaps = {name: heatmap_of(strip, image, rival, answer.ignored) for name, rival in rivals.items()}
    known = use_masks and answer.mask is not None
    truth = _ground_truth(image, answer.mask, answer.ignored, rules.patch) if known else None
    result.board.add(strip, heatmap, truth, rules.match_radius)
    for name, rivals_heatmap in rivals_heatmaps.items():
        result.rivals[name].add(strip, rivals_heatmap, truth, rules.match_radius)
    scored = _apply_rules(strip, image, heatmap, truth, rules)
    result.results.append(scored)
    _exhibit(result.gallery, scored, image, heatmap, truth)
    return scored


def read_strip(strip: StripFile, input_max: float) -> tuple[np.ndarray, np.ndarray | None]:
    """The strip, (3, H, W) grey levels 0-255, and its mask, (H, W) bool; None where it is not known what is a defect."""
    image = load_image(strip.path, input_max)
    if strip.mask:
        return image, load_mask(strip.mask, image.shape[1:])
    mask = np.zeros(image.shape[1:], dtype=np.float32)
    if strip.painted_with:
        paint_strip(strip.painted_by, image, mask, np.random.default_rng(strip.painted_with))
    return image, mask > 0 if strip.painted_with or strip.kind == GOOD else None


def _gather(result: Evaluation, processes: Processes) -> Evaluation:
    parts = processes.gather(result)
    if len(parts) == 1:
        return result
    whole = Evaluation(rivals={name: Scoreboard() for name in result.rivals})
    whole.results = [scored for part in parts for scored in part.results]
    whole.problems = [problem for part in parts for problem in part.problems]
    whole.board.merge([part.board for part in parts])
    for name, board in whole.rivals.items():
        board.merge([part.rivals[name] for part in parts])
    whole.gallery.merge([part.gallery for part in parts])
    whole.times.merge([part.times for part in parts])
    return whole


def heatmap_of(strip: StripFile, image: np.ndarray, predictor: Predictor, ignored: np.ndarray | None) -> np.ndarray:
    """What a predictor says of a strip, (H, W) float32 0-1, 0 where it is ignored. Raises `UserError` for another range."""
    with about(strip.path):
        return _probabilities(predictor(image), ignored)


def _probabilities(heatmap: np.ndarray, ignored: np.ndarray | None) -> np.ndarray:
    lowest, highest = heatmap.min(), heatmap.max()
    if not (lowest >= 0 and highest <= 1 + ROUNDING):
        raise UserError(f"found a heatmap from {lowest:g} to {highest:g}, expected 0 to 1: {BROKEN_NETWORK}")
    heatmap = np.minimum(heatmap, 1)
    return heatmap if ignored is None else np.where(ignored, np.float32(0), heatmap)


def _ground_truth(image: np.ndarray, mask: np.ndarray, ignored: np.ndarray | None, patch: int | None) -> GroundTruth:
    counted = mask if ignored is None else mask & ~ignored
    return GroundTruth(counted, *truths_of(counted, image, patch), ignored)


def _apply_rules(strip: StripFile, image: np.ndarray, heatmap: np.ndarray, truth: GroundTruth | None, rules: Rules) -> StripResult:
    result = StripResult(strip, float(heatmap.max()), truths=len(truth.truths) if truth else None)
    if rules.threshold is None:
        return result
    if rules.measure:
        result.statistics = rules.measure(image)
    result.detections = PackedDetections(detect(heatmap, image, rules.threshold.value, rules.min_area, rules.polarity))
    if truth:
        points = np.array([(detection.y, detection.x) for detection in result.detections]).reshape(-1, 2)
        result.found = match(points, truth.truths, truth.labels, rules.match_radius).astype(np.int32)
    return result


def _exhibit(gallery: Gallery, result: StripResult, image: np.ndarray, heatmap: np.ndarray, truth: GroundTruth | None) -> None:
    if not truth or result.found is None:
        return
    file = result.strip.relative.as_posix()
    for number, true_defect in enumerate(truth.truths):
        if not (result.found == number).any():
            gallery.add_miss(file, true_defect, image, heatmap)
    for detection, number in zip(result.detections, result.found):
        if number == FALSE_ALARM:
            gallery.add_false_alarm(file, detection, image, heatmap)


def _write_strip(output_dir: Path, result: StripResult, answer: Answer, draw: bool, times: StageTimes) -> None:
    stem = output_dir / result.strip.relative.with_suffix("")
    with times.of("writing"):
        with replace_file(stem.with_name(f"{stem.name}_heatmap.tiff")) as temporary:
            tifffile.imwrite(temporary, answer.heatmap)
        if draw:
            title = f"{result.strip.relative.as_posix()}   {result.verdict}   score {result.score:.4f}"
            path = stem.with_name(f"{stem.name}_panels.png")
            save_panels(path, answer.image, answer.heatmap, answer.mask, title, result.detections)
