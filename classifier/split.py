"""Divide pictures among train/, valid/ and test/: each kind by its shares, a group on one side."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from classifier.defect_data import SPLITS
from common.errors import UserError

FEWEST_TO_SHARE = 3  # pictures of a kind from which on each split gets one


def group_of(name: str, pattern: re.Pattern | None) -> str:
    """The group of a picture by its path: the first bracket of the pattern, or all that it matches.

    Without a pattern each picture is a group of its own. Raises `UserError` for a path without it.
    """
    if pattern is None:
        return name
    found = pattern.search(name)
    if not found:
        raise UserError(
            f"--group_by: found no {pattern.pattern!r} in {name}, expected it in every path"
        )
    return next((part for part in found.groups() if part is not None), found[0])


def join_groups(*memberships: Sequence[str | None]) -> list[int]:
    """Groups of items that have the same name in any of several lists, as numbers.

    None in a list means that the item shares nothing there.
    """
    parents = list(range(len(memberships[0])))

    def root(item: int) -> int:
        while parents[item] != item:
            parents[item] = parents[parents[item]]
            item = parents[item]
        return item

    for names in memberships:
        first: dict[str, int] = {}
        for item, name in enumerate(names):
            if name is not None:
                parents[root(item)] = root(first.setdefault(name, item))
    return [root(item) for item in range(len(parents))]


def assign_splits(
    kinds: Sequence[str], groups: Sequence[int], shares: tuple[float, float], seed: int
) -> list[str]:
    """The split of each picture, by its kind and its group.

    `shares` are those of valid/ and test/, of each kind: at least one picture where a kind has
    three or more. Groups are placed in random order, larger ones first, each where most of its
    pictures are still wanted. The same seed gives the same splits.
    """
    left = {
        kind: dict(zip(SPLITS, split_counts(number, shares)))
        for kind, number in Counter(kinds).items()
    }
    wanted = {kind: dict(counts) for kind, counts in left.items()}
    members: dict[int, list[int]] = {}
    for item, group in enumerate(groups):
        members.setdefault(group, []).append(item)
    units = list(members.values())
    order = np.random.default_rng(seed).permutation(len(units)).tolist()
    result = [""] * len(kinds)
    for number in sorted(order, key=lambda number: -len(units[number])):
        counts = Counter(kinds[item] for item in units[number])
        split = max(SPLITS, key=lambda split: _fit(split, counts, left, wanted))
        for kind, count in counts.items():
            left[kind][split] -= count
        for item in units[number]:
            result[item] = split
    return result


def split_counts(number: int, shares: tuple[float, float]) -> tuple[int, int, int]:
    """How many of `number` pictures of a kind go to train/, valid/ and test/."""
    valid, test = (
        max(round(share * number), int(share > 0 and number >= FEWEST_TO_SHARE)) for share in shares
    )
    return number - valid - test, valid, test


def _fit(
    split: str,
    counts: Counter,
    left: dict[str, dict[str, int]],
    wanted: dict[str, dict[str, int]],
) -> tuple[float, float]:
    """How well a group fits a split: pictures wanted less those too many, then the share left."""
    fits, share = 0, 0.0
    for kind, count in counts.items():
        room = max(0, left[kind][split])
        fits += min(count, room) - max(0, count - room)
        share += count * left[kind][split] / max(1, wanted[kind][split])
    return fits, share


def require_trainable(kinds: Sequence[str], splits: Iterable[str]) -> None:
    """Raise `UserError` for fewer than two kinds, and for one of which train/ has no picture."""
    different = sorted(set(kinds))
    if len(different) < 2:
        found = f"pictures of one kind alone, {different[0]}" if different else "no pictures"
        raise UserError(f"found {found}, expected two kinds or more: a classifier tells them apart")
    trained = {kind for kind, split in zip(kinds, splits) if split == "train"}
    if missing := [kind for kind in different if kind not in trained]:
        raise UserError(
            f"found no picture of {missing[0]} for train/, because all are of one group, expected "
            "more groups or smaller ones"
        )
