"""Strips of three channels from images of one channel: one file for Target, and its references.

Three references or more are registered to Target and averaged in two groups, which become Ref1 and
Ref2: the noise of a mean of n images is that of one divided by the root of n.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

import numpy as np

from common.errors import UserError, prefix_errors
from common.notes import note_once
from common.pipeline import in_parallel
from data.image_files import Channels, load_image, open_channels
from data.listing import list_images
from data.registered_copies import StripAligner
from data.write_images import write_strip
from gaussian import MAX_GREY


@dataclass(frozen=True)
class ChannelFiles:
    """The images of one channel.

    `files` has them by their names: the path in the folder without suffix and ending. `single` is
    one file that serves every strip instead. `place` is what the user gave, for errors.
    """

    place: str
    files: dict[PurePath, Path]
    single: Path | None = None

    def of(self, name: PurePath) -> Path | None:
        """Return the image of the strip of that name, in any case, or None."""
        if self.single:
            return self.single
        return self.files.get(name) or self._folded.get(name.as_posix().casefold())

    @cached_property
    def _folded(self) -> dict[str, Path]:
        return {name.as_posix().casefold(): path for name, path in self.files.items()}


@dataclass(frozen=True)
class StripSources:
    """The images of one strip: `name` is its path without suffix in the new folder."""

    name: PurePath
    target: Path
    references: tuple[Path, ...]


def combine(
    root: Path,
    places: Sequence[str],
    folder: Path | None,
    aligner: StripAligner | None,
    input_max: float,
) -> None:
    """Write a TIFF strip of every image of Target to `root`, in the folders that its images lie in.

    `places` are those of Target and of its references, as `find_channel` takes them; with `folder`
    they are endings of names, as `find_channels_by_ending` takes them. With `aligner` the
    references are registered and averaged, else there are one or two. Raises `UserError` when an
    image has no partner, or two partners do not fit each other.
    """
    target, *references = (
        find_channels_by_ending(folder, places) if folder else map(find_channel, places)
    )
    jobs = pair_sources(target, references)
    for reference in references:
        if unused := without_partner(target, reference):
            note_once(
                f"{reference.place}: left out {unused[0].name}, as Target has no image of that "
                f"name; images like it: {len(unused)}"
            )

    def make(sources: StripSources) -> None:
        strip = (
            average_references(sources, aligner, input_max) if aligner else stack_channels(sources)
        )
        name = sources.name
        write_strip(root / name.parent / f"{name.name}.tiff", strip)

    in_parallel(make, jobs, "combining channels")


def find_channel(place: str) -> ChannelFiles:
    """Return the images in a folder, or the one file for all strips.

    Raises `UserError` for a folder without images, with images of several formats, or with two
    images of one name.
    """
    path = Path(place)
    if path.is_file():
        return ChannelFiles(place, {}, path)
    return ChannelFiles(place, _by_name(path, list_images(path), ""))


def find_channels_by_ending(folder: Path, endings: Sequence[str]) -> list[ChannelFiles]:
    """Return the images in one folder whose names end with each of `endings`, such as `_ref1`.

    An image belongs to the longest ending that it has. Raises `UserError` as `find_channel`, and
    for an ending that no image has.
    """
    if len(set(endings)) < len(endings):
        raise UserError(
            f"{folder}: found the endings {', '.join(map(repr, endings))}, expected different ones"
        )
    groups: dict[str, list[Path]] = {ending: [] for ending in endings}
    for path in list_images(folder):
        fitting = [ending for ending in endings if path.stem.endswith(ending)]
        if fitting:
            groups[max(fitting, key=len)].append(path)
    for ending, paths in groups.items():
        if not paths:
            raise UserError(
                f"{folder}: found no image whose name ends with {ending!r}, expected such images"
            )
    return [
        ChannelFiles(f"{folder}/*{ending}", _by_name(folder, paths, ending))
        for ending, paths in groups.items()
    ]


def pair_sources(target: ChannelFiles, references: Sequence[ChannelFiles]) -> list[StripSources]:
    """Return the images of each strip, one for each image of Target, in order of their names.

    Raises `UserError` where Target is one file for all, and naming the images of Target that have
    no partner among a reference's.
    """
    if target.single:
        raise UserError(f"{target.place}: found a file for Target, expected a folder of images")
    for reference in references:
        missing = [name for name in target.files if not reference.of(name)]
        if missing:
            raise UserError(
                f"{reference.place}: found no image {missing[0]} as in {target.place} "
                f"(missing: {len(missing)} of {len(target.files)}), "
                "expected one of each name, or one file for all strips"
            )
    return [
        StripSources(name, path, tuple(reference.of(name) for reference in references))
        for name, path in sorted(target.files.items())
    ]


def without_partner(target: ChannelFiles, reference: ChannelFiles) -> list[Path]:
    """Return the images of a reference that belong to no image of Target."""
    names = {name.as_posix().casefold() for name in target.files}
    return [
        path for name, path in reference.files.items() if name.as_posix().casefold() not in names
    ]


def stack_channels(sources: StripSources) -> np.ndarray:
    """Return a strip (3, H, W) of Target and one or two references, with the files' own values.

    One reference becomes both. Raises `UserError` for an image of another size or type than
    Target's, and for one that is not grey.
    """
    paths = (sources.target, sources.references[0], sources.references[-1])
    planes = []
    for path in paths:
        with prefix_errors(path):
            plane = open_channels(path, Channels.GREY, is_mapped=False)[0]
            _require_like_target(plane, planes[0] if planes else plane)
            planes.append(plane)
    return np.stack(planes)


def average_references(
    sources: StripSources, aligner: StripAligner, input_max: float
) -> np.ndarray:
    """Return a strip (3, H, W) float32, 0 to `input_max`: Target and the means of two groups.

    Every reference is registered to Target, as `average_planes`. Raises `UserError` as
    `stack_channels`, and for values outside of 0 to `input_max`.
    """
    target = load_image(sources.target, input_max, Channels.GREY)[0]
    references = []
    for path in sources.references:
        plane = load_image(path, input_max, Channels.GREY)[0]
        with prefix_errors(path):
            _require_like_target(plane, target)
        references.append(plane)
    strip = average_planes(target, references, aligner)
    return np.clip(strip, 0, MAX_GREY) * np.float32(input_max / MAX_GREY)


def average_planes(
    target: np.ndarray, references: Sequence[np.ndarray], aligner: StripAligner
) -> np.ndarray:
    """Return Target and the means of two groups of registered references, (3, H, W).

    All planes are (H, W) in grey levels 0-255; there are two references or more. The first, third
    and so on make Ref1, the others Ref2. Values may leave 0-255 where they were matched.
    """
    aligned: list[np.ndarray] = []
    for first in range(0, len(references), 2):
        pair = references[first], references[min(first + 1, len(references) - 1)]
        aligned += list(aligner(np.stack([target, *pair]))[0][1:])
    aligned = aligned[: len(references)]
    return np.stack([target, np.mean(aligned[::2], axis=0), np.mean(aligned[1::2], axis=0)])


def _require_like_target(plane: np.ndarray, target: np.ndarray) -> None:
    if plane.shape != target.shape:
        raise UserError(
            f"found {plane.shape} (height, width), expected {target.shape} like Target's image"
        )
    if plane.dtype.newbyteorder("=") != target.dtype.newbyteorder("="):
        raise UserError(
            f"found pixels of type {plane.dtype}, expected {target.dtype} like Target's"
        )


def _by_name(folder: Path, paths: list[Path], ending: str) -> dict[PurePath, Path]:
    """Return the images by their paths without suffix and ending."""
    named: dict[PurePath, Path] = {}
    for path in paths:
        relative = path.relative_to(folder)
        name = PurePath(relative.parent, relative.stem.removesuffix(ending) or relative.stem)
        if name in named:
            raise UserError(f"{path}: found {named[name].name} beside it, expected different names")
        named[name] = path
    return named
