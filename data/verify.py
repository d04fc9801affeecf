"""Every strip of a data set looked at once, before the work begins: what can be used, and what is
wrong with the rest.
"""

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError, prefix_errors
from common.files import atomic_write
from data.folder import StripFile
from data.image_files import load_image, load_mask
from gaussian import MAX_GREY
from ops.tiling import tile_positions

RANGE_ROUNDING = 1e-6  # of a value that went from the camera's range to grey levels and back


@dataclass(frozen=True)
class Verification:
    """The strips that can be used, all of `image_size` (height, width; None without any), and a
    line about every other one.
    """

    image_size: tuple[int, int] | None
    usable: list[StripFile]
    problems: list[str]


class VerifiedFiles:
    """What is known of files that were read without a problem: valid while path, size and time of
    change stay the same.

    `unchanged` are the files, masks included, that were not read again. What is known is in the
    JSON file `path` (None: only in memory); one that cannot be read is begun anew.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self.unchanged: set[str] = set()
        self._facts: dict[str, list] = {}
        if path:
            with suppress(OSError, ValueError):
                content = json.loads(path.read_text())
                self._facts = content if isinstance(content, dict) else {}

    def facts(self, path: Path, asked: str, count: int, read: Callable[[], list]) -> list:
        """The `count` facts that `read` says about the file, from memory where it was asked the
        same of the same file before.
        """
        with prefix_errors(path):
            try:
                status = path.stat()
            except OSError as error:
                raise UserError(
                    f"found no readable image ({error.strerror}), expected a whole TIFF, PNG or JPG file"
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
        """Write `path` anew. Raises `UserError` where the file system refuses."""
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self._facts))


def verify_strips(
    strips: list[StripFile],
    input_max: float,
    patch: int = 1,
    image_size: tuple[int, int] | None = None,
    good_files: VerifiedFiles | None = None,
) -> Verification:
    """Load every strip and its mask, in parallel, without keeping them; not those that `good_files`
    knows, which learns the others.

    A strip is a problem when it or its mask cannot be read or is out of range, when it is smaller
    than a patch, of another size than `image_size` (None: than most), or shares its name but for
    the suffix with another one, and when it is defective and lacks a mask while others have one.
    Raises `UserError` when no value in all usable strips exceeds 1 though `input_max` does.
    """
    names = Counter(strip.relative.with_suffix("") for strip in strips)
    needs_mask = any(strip.mask for strip in strips)
    good_files = good_files or VerifiedFiles()

    def read(path: Path) -> list:
        image = load_image(path, input_max)
        return [*image.shape[1:], float(image.max())]

    def inspect(strip: StripFile) -> tuple[tuple[int, int], float] | UserError:
        try:
            height, width, highest = good_files.facts(
                strip.path, f"input_max {input_max:g}", 3, lambda: read(strip.path)
            )
            with prefix_errors(strip.path):
                tile_positions((height, width), patch)
                if names[strip.relative.with_suffix("")] > 1:
                    raise UserError(
                        "found another image of that name, expected names that differ without their suffix"
                    )
                if needs_mask and strip.is_defective and not strip.mask:
                    raise UserError(
                        f"found no mask {strip.path.stem}_mask, expected one as other defective strips have"
                    )
            if strip.mask:
                good_files.facts(
                    strip.mask,
                    f"mask {height}x{width}",
                    2,
                    lambda: list(load_mask(strip.mask, (height, width)).shape),
                )
        except UserError as error:
            return error
        return (height, width), highest

    with ThreadPoolExecutor() as pool:
        looking = pool.map(inspect, strips)
        answers = list(
            tqdm(
                looking,
                total=len(strips),
                desc="checking strips",
                unit="strip",
                disable=None,
                leave=False,
            )
        )
    problems = [str(answer) for answer in answers if isinstance(answer, UserError)]
    facts = [
        (strip, *answer)
        for strip, answer in zip(strips, answers)
        if not isinstance(answer, UserError)
    ]
    sizes = Counter(size for _, size, _ in facts)
    expected = image_size or (sizes.most_common(1)[0][0] if sizes else None)
    problems += [
        f"{strip.path}: found {size} (height, width), expected {expected}"
        for strip, size, _ in facts
        if size != expected
    ]
    usable = [strip for strip, size, _ in facts if size == expected]
    if facts:
        _refuse_unit_range(
            max(highest for _, _, highest in facts) * input_max / MAX_GREY,
            input_max,
            facts[0][0].path.parent,
        )
    return Verification(expected, usable, problems)


def _refuse_unit_range(highest: float, input_max: float, folder: Path) -> None:
    if highest <= 1 + RANGE_ROUNDING and input_max > 1:
        raise UserError(
            f"{folder}: found no value above {highest:g} in the whole data set, expected 0 to {input_max:g}: "
            "data of the range 0 to 1 need a training with --input_max 1"
        )
