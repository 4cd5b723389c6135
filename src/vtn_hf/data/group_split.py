"""Cuts a collection into splits that have the same shares of each class, and never a group in two of them."""

import os
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from .duplicates import Duplicates, group_pairs
from .listing import Listing, Row, find_file
from .splits import find_groups


_MAX_ROUNDS, _MIN_GAIN = 20, 1e-9
# Shares that are so near need no better.
_GOOD_ENOUGH = 0.002
# Comparing all pairs of more groups takes long, and so many leave little to gain.
_MAX_GROUPS_TO_SWAP = 2000


def split_listing(
    listing: Listing, shares: dict[str, float], group: str | None, duplicates: Iterable[Duplicates], seed: int = 0
) -> dict[str, list[Row]]:
    """
    Cuts a collection, whatever its splits are.

    Args:
        listing (`Listing`): The videos.
        shares, seed: As in [`split_groups`].
        group (`str`, *optional*): What must stay together, as in [`find_groups`]; the parts of a file always do.
        duplicates (`Iterable[Duplicates]`): Files that must stay together, too.

    Returns:
        `dict[str, list[Row]]`: The videos of each split, in the order in which they were listed.

    Raises:
        ValueError: If `shares` or `group` do not suit the videos.
    """
    rows = [row for split in listing.rows.values() for row in split]
    files = [("file", os.path.realpath(find_file(row.video) or row.video)) for row in rows]
    pairs = [(("group", name), file) for name, file in zip(find_groups(listing, rows, group), files, strict=True)]
    for same in duplicates:
        first, *others = (("file", os.path.realpath(path)) for path in same.paths)
        pairs += [(first, other) for other in others]
    number_of = {member: number for number, members in enumerate(group_pairs(pairs)) for member in members}
    chosen = split_groups([number_of[file] for file in files], [row.labels for row in rows], shares, seed)
    return {name: [row for row, split in zip(rows, chosen, strict=True) if split == name] for name in shares}


def split_groups(
    groups: Sequence[Hashable], labels: Sequence[Sequence[Hashable]], shares: dict[str, float], seed: int = 0
) -> list[str]:
    """
    Chooses a split for each video.

    The largest groups choose first, each the split that is then nearest to its shares of all classes; then groups move
    or change places as long as that brings the splits nearer.

    Args:
        groups (`Sequence`): Of each video, what must stay together.
        labels (`Sequence[Sequence]`): The classes of each video.
        shares (`dict[str, float]`): Of each split, the share of the videos; together 1.
        seed (`int`, *optional*, defaults to 0): Another one gives another choice.

    Returns:
        `list[str]`: The split of each video.

    Raises:
        ValueError: If the shares are none, or there are fewer groups than splits.
    """
    if min(shares.values(), default=0) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"The shares of splits must be positive and make 1 together, got {shares}.")
    names = list(dict.fromkeys(groups))
    if len(names) < len(shares):
        raise ValueError(f"{len(groups)} videos in {len(names)} group(s) make no {len(shares)} splits.")
    number_of = {name: number for number, name in enumerate(names)}
    counts = _count([number_of[group] for group in groups], labels, len(names))
    chosen = _Assignment(counts, np.array(list(shares.values())), np.random.default_rng(seed)).improve()
    splits = list(shares)
    return [splits[chosen[number_of[group]]] for group in groups]


def _count(numbers: list[int], labels: Sequence[Sequence[Hashable]], num_groups: int) -> np.ndarray:
    """Of each group, the videos of each class as shares of the class, and of all: `(groups, classes + 1)`."""
    column_of = {
        label: column for column, label in enumerate(sorted({name for each in labels for name in each}, key=str))
    }
    counts = np.zeros((num_groups, len(column_of) + 1), dtype=np.float32)
    for number, classes in zip(numbers, labels, strict=True):
        counts[number, [column_of[label] for label in classes]] += 1
        counts[number, -1] += 1
    return counts / counts.sum(axis=0).clip(min=1)


class _Assignment:
    """
    Which group is in which split.

    Args:
        counts (`np.ndarray` of shape `(groups, classes)`): The share that each group has of each class.
        shares (`np.ndarray` of shape `(splits,)`): What each split shall have of each class.
        generator (`np.random.Generator`): Decides between equals.
    """

    def __init__(self, counts: np.ndarray, shares: np.ndarray, generator: np.random.Generator):
        self._counts, self._generator = counts, generator
        # What is missing from each split: (splits, classes). The cost is the sum of its squares.
        self._missing = np.repeat(shares[:, None], counts.shape[1], axis=1)
        self._splits = np.zeros(len(counts), dtype=np.int64)
        order = generator.permutation(len(counts))
        for group in order[np.argsort(-counts[order].sum(axis=1), kind="stable")]:
            # Relative to its share, or small splits would be filled last.
            gains = ((2 * self._missing - counts[group]) * counts[group] / shares[:, None]).sum(axis=1)
            self._put(group, int(gains.argmax()))
        for split in set(range(len(shares))) - {*self._splits.tolist()}:
            fullest = int(np.bincount(self._splits).argmax())
            smallest = min(np.flatnonzero(self._splits == fullest).tolist(), key=lambda group: counts[group, -1])
            self._put(smallest, fullest, sign=-1)
            self._put(smallest, split)

    def improve(self) -> np.ndarray:
        """The split of each group, once nothing is gained any more by moving one or by exchanging two."""
        for _ in range(_MAX_ROUNDS):
            has_changed = False
            if np.abs(self._missing).max() < _GOOD_ENOUGH:
                break
            for group in self._generator.permutation(len(self._counts)):
                has_changed |= self._move(group) or self._swap(group)
            if not has_changed:
                break
        return self._splits

    def _put(self, group: int, split: int, sign: int = 1):
        self._missing[split] -= sign * self._counts[group]
        self._splits[group] = split

    def _move(self, group: int) -> bool:
        """Moves a group to where it is missed most, unless its split would be left without any."""
        here, own = self._splits[group], self._counts[group]
        if (self._splits == here).sum() == 1:
            return False
        gains = 2 * (self._missing - self._missing[here] - own) @ own
        gains[here] = 0
        best = int(gains.argmax())
        if gains[best] <= _MIN_GAIN:
            return False
        self._put(group, here, sign=-1)
        self._put(group, best)
        return True

    def _swap(self, group: int) -> bool:
        """Exchanges a group with the one of another split that fits better."""
        if len(self._counts) > _MAX_GROUPS_TO_SWAP:
            return False
        here = self._splits[group]
        # What the split of this group gives away, and that of each other one gets.
        given = self._counts[group] - self._counts
        gains = 2 * ((self._missing[self._splits] - self._missing[here] - given) * given).sum(axis=1)
        gains[self._splits == here] = 0
        other = int(gains.argmax())
        if gains[other] <= _MIN_GAIN:
            return False
        there = self._splits[other]
        for moved, source, target in ((group, here, there), (other, there, here)):
            self._put(moved, source, sign=-1)
            self._put(moved, target)
        return True
