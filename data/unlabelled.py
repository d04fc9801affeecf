"""Strips without any truth on which every detection counts as a false alarm: samples of folders."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.folder import StripFile, list_strips

SAMPLE_SEED = 30_000
NAME = "fp_path"  # the folder of their results, below that of the scored folder's


@dataclass(frozen=True)
class SampledFolder:
    """A folder of strips, and the share of them that is taken, above 0 and up to 1."""

    folder: Path
    share: float = 1.0

    def __str__(self) -> str:
        return f"{self.folder}:{self.share:g}"


def parse_sampled_folder(text: str) -> SampledFolder:
    """Parse `FOLDER` or `FOLDER:SHARE`. Raises `UserError` for a share that is none."""
    folder, _, ending = text.rpartition(":")
    try:
        share = float(ending)
    except ValueError:
        return SampledFolder(Path(text))
    if not folder or not 0 < share <= 1:
        raise UserError(f"found {text!r}, expected FOLDER or FOLDER:SHARE, of a share up to 1")
    return SampledFolder(Path(folder), share)


def list_false_alarm_strips(
    sampled: Sequence[SampledFolder],
    img_format: str | None,
    order: tuple[int, ...],
    known: Sequence[StripFile] = (),
) -> list[StripFile]:
    """The sampled strips of all folders, each without a true point and of unknown kind.

    The sample depends on the names in a folder alone, and a smaller share is a part of a larger
    one. `relative` begins with NAME and the folder's own name. `order` is that of the strips'
    channels.

    Raises `UserError` as `list_strips`, and for strips that are among `known` or come twice.
    """
    chosen, places = [], {strip.path.resolve() for strip in known}
    names = Counter()
    for entry in sampled:
        strips = list_strips(entry.folder, img_format, use_masks=False, order=order)
        count = max(1, round(entry.share * len(strips)))
        numbers = np.random.default_rng(SAMPLE_SEED).permutation(len(strips))[:count]
        found = {strips[number].path.resolve() for number in numbers.tolist()}
        if twice := sorted(found & places):
            raise UserError(
                f"--fp_path {entry}: found {twice[0]}, which is scored already, "
                "expected other strips than those of --test_path"
            )
        places |= found
        name = entry.folder.resolve().name
        names[name] += 1
        folder = Path(NAME, f"{name}_{names[name]}" if names[name] > 1 else name)
        chosen += [
            replace(strip, relative=folder / strip.relative, kind=None, points=())
            for strip in (strips[number] for number in sorted(numbers.tolist()))
        ]
        print(
            f"{entry.folder}: {count} of {len(strips)} strips, "
            "on which every detection counts as a false alarm"
        )
    return chosen
