"""A check of every strip before the work begins: which can be used, and what is wrong."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import UserError, prefix_errors
from common.fetch_ahead import fetching_ahead
from common.files import atomic_write, read_notes
from common.notes import warn_once
from common.progress import progress_bar
from data.folder import StripFile, unit_of
from data.image_files import STORED_ORDER, load_and_count
from data.masks import LARGEST_SHARE, load_mask
from data.true_points import require_inside
from data.value_range import ValueRange, measure_values, merge_ranges, require_fitting_scale
from ops.tiling import tile_positions


@dataclass(frozen=True)
class FileReading:
    """How the files of a set are read, and what they must be.

    `load` gives the image (C, H, W) in grey levels 0-255 and the number of its clipped values, of a
    file and the camera's largest value. `asked` says in a few words what it reads: facts that were
    kept about a file hold for the same words. `largest_defect` is the largest share of an image
    that its mask may mark.
    """

    load: Callable[[StripFile, float], tuple[np.ndarray, int]]
    asked: str
    largest_defect: float = LARGEST_SHARE
    has_one_size: bool = True


@dataclass(frozen=True)
class Verification:
    """The usable strips and a line about every other one.

    `image_size` (height, width) is that of all usable strips, or of most where sizes may differ.

    `values` is the range of all strips that could be read. It and `image_size` are None without
    usable strips.
    """

    image_size: tuple[int, int] | None
    usable: list[StripFile]
    problems: list[str]
    values: ValueRange | None = None


class VerifiedFiles:
    """Facts about files that were read without a problem.

    They are valid while path, size and modification time stay the same. `unchanged` are the files,
    masks included, that were not read again. The facts are kept in the JSON file `path` (None: in
    memory only). If it cannot be read, it is begun anew.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self.unchanged: set[str] = set()
        self._facts: dict[str, list] = {}
        if path:
            content = read_notes(path)
            self._facts = content if isinstance(content, dict) else {}

    def facts(self, path: Path, asked: str, count: int, read: Callable[[], list]) -> list:
        """Return the `count` facts that `read` reports about a file.

        They come from memory if the same was `asked` of the unchanged file before. Raises
        `UserError` if the file cannot be read.
        """
        with prefix_errors(path):
            try:
                status = path.stat()
            except OSError as error:
                raise UserError(
                    f"found no readable image ({error.strerror}), "
                    "expected a whole TIFF, PNG or JPG file"
                ) from None
        state = [status.st_size, status.st_mtime_ns, asked]
        before = self._facts.get(str(path))
        if isinstance(before, list) and before[:3] == state and len(before) == 3 + count:
            self.unchanged.add(str(path))
            return before[3:]
        facts = read()
        self._facts[str(path)] = state + facts
        return facts

    def save(self) -> None:
        """Write `path` anew. Raises `UserError` if the file system refuses."""
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self._facts))


def verify_strips(
    strips: list[StripFile],
    input_max: float,
    patch: int = 1,
    image_size: tuple[int, int] | None = None,
    good_files: VerifiedFiles | None = None,
    reading: FileReading | None = None,
) -> Verification:
    """Load every strip and its mask once, in parallel, without keeping them.

    Strips that `good_files` knows are skipped, and it learns the others. These are problems:

    - a strip or its mask cannot be read or is out of range
    - a strip is smaller than a patch
    - its size is not `image_size` (None: the size of most strips), where there must be one size
    - another strip has the same name but for the suffix
    - a true point lies outside of its strip
    - a defective strip has neither mask nor points although others have one of them

    `reading` None means strips of three channels, all of one size.

    Raises `UserError` if all usable strips together use too little of the range to `input_max`.
    """
    names = Counter(strip.relative.with_suffix("") for strip in strips)
    # not `has_truth`: that no point is in a strip does not say that those of others are known
    needs_truth = any(strip.mask or strip.points for strip in strips)
    good_files = good_files or VerifiedFiles()

    empty_masks: list[str] = []
    reading = reading or _reading_strips(strips)
    asked = f"input_max {input_max:g}, {reading.asked}"

    def read(strip: StripFile) -> list:
        image, clipped = reading.load(strip, input_max)
        return [*image.shape[1:], *astuple(measure_values(image, clipped))]

    def verify_strip(
        number: int, strip: StripFile
    ) -> tuple[tuple[int, int], ValueRange] | UserError:
        try:
            with prefix_errors(strip.path):
                fetching.reach(number)
            height, width, *values = good_files.facts(
                strip.path, asked, 2 + len(fields(ValueRange)), lambda: read(strip)
            )
            with prefix_errors(strip.path):
                if patch > 1:
                    tile_positions((height, width), patch)
                if names[strip.relative.with_suffix("")] > 1:
                    raise UserError(
                        "found another image of that name, "
                        "expected names that differ without their suffix"
                    )
                if needs_truth and strip.is_defective and not strip.has_truth:
                    raise UserError(
                        f"found no mask {strip.path.stem}_mask, "
                        "expected one as other defective strips have, or a row in points.csv"
                    )
                require_inside(strip.points or (), (height, width))
            marked = sum(
                good_files.facts(
                    mask,
                    f"marked pixels of {height}x{width}",
                    1,
                    partial(_count_marked, mask, (height, width), reading.largest_defect),
                )[0]
                for mask in strip.masks
            )
            if strip.masks and strip.is_defective and not marked:
                empty_masks.append(str(strip.mask))
        except UserError as error:
            return error
        return (height, width), ValueRange(*values)

    paths = [(strip.path, *strip.masks) for strip in strips]
    with fetching_ahead(paths) as fetching, ThreadPoolExecutor() as pool:
        outcomes = list(
            progress_bar(
                pool.map(verify_strip, range(len(strips)), strips),
                total=len(strips),
                desc=f"checking {unit_of(strips)}s",
                unit=unit_of(strips),
            )
        )
    if empty_masks:
        warn_once(
            f"{min(empty_masks)}: found a mask that marks nothing, though its {unit_of(strips)} "
            f"lies in a folder of defective ones; masks like it: {len(empty_masks)}"
        )
    problems = [str(outcome) for outcome in outcomes if isinstance(outcome, UserError)]
    facts = [
        (strip, *outcome)
        for strip, outcome in zip(strips, outcomes)
        if not isinstance(outcome, UserError)
    ]
    sizes = Counter(size for _, size, _ in facts)
    expected = image_size or (sizes.most_common(1)[0][0] if sizes else None)
    problems += [
        f"{strip.path}: found {size} (height, width), expected {expected}"
        for strip, size, _ in facts
        if reading.has_one_size and size != expected
    ]
    usable = [strip for strip, size, _ in facts if size == expected or not reading.has_one_size]
    values = merge_ranges([strip_values for _, _, strip_values in facts])
    if values:
        with prefix_errors(facts[0][0].path.parent):
            require_fitting_scale(values, input_max)
    return Verification(expected, usable, problems, values)


def _reading_strips(strips: Sequence[StripFile]) -> FileReading:
    order = strips[0].order if strips else STORED_ORDER
    return FileReading(
        lambda strip, input_max: load_and_count(strip.path, input_max, order=order),
        f"channels {order}",
    )


def _count_marked(mask: Path, image_size: tuple[int, int], largest_share: float) -> list[int]:
    return [int(load_mask(mask, image_size, largest_share).sum())]
