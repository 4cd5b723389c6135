"""The parts of a collection: how they are called, and how one is taken out of another to evaluate on."""

import difflib
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

from .listing import Listing, Row, name_some


# As people call them, in any case.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
_GOLDEN_STEP = 0x9E3779B97F4A7C15  # 2**64 by the golden ratio
_SPLITS = {name: split for split, names in SPLIT_NAMES.items() for name in names}


def find_split(name: str) -> str | None:
    """The split that a folder or list with this name is, `None` if it is none of the usual names."""
    return _SPLITS.get(name.strip().casefold())


def find_split_in(name: str) -> str | None:
    """The split that is a word of a name, as in `kinetics-train-000`."""
    return next(filter(None, map(find_split, re.split(r"[\W\d_]+", name))), None)


def guess_split(name: str) -> str | None:
    """The split that a name may be meant for, though it is not one of its names: `trian`, `train_256`, `Valset`."""
    begun = next((split for split in SPLIT_NAMES if name.casefold().startswith(split)), None)
    similar = difflib.get_close_matches(name.casefold(), _SPLITS, n=1, cutoff=0.75)
    return find_split_in(name) or begun or (_SPLITS[similar[0]] if similar else None)


def hold_out(groups: Sequence[str], labels: Sequence[Sequence[Hashable]], share: float, seed: int) -> list[bool]:
    """
    Chooses the videos to evaluate on.

    Whether a video is chosen depends on the name of its group and the seed alone: it is so on every machine, and stays
    so when videos are added. Names that count (`a_001`, `a_002`, …) are chosen at even distances. Only where a class
    would lose all that it could train on, or have nothing to evaluate on though its share is half a group or more, is
    one of its groups moved.

    Args:
        groups (`Sequence[str]`): Of each video, what it must not be separated from; its own name if that is nothing.
        labels (`Sequence[Sequence]`): The classes of each video.
        share (`float`): About which share of each class to choose, between 0 and 1, both excluded.
        seed (`int`): Another one gives another choice.

    Returns:
        `list[bool]`: Whether each video is chosen.

    Raises:
        ValueError: If `share` is not between 0 and 1, or there is a single group.
    """
    if not 0 < share < 1:
        raise ValueError(f"The share of the videos to evaluate on must be between 0 and 1, got {share}.")
    draws = {group: _draw(group, seed) for group in groups}
    if len(draws) < 2:
        raise ValueError(f"A share of {share} cannot be held out of {len(groups)} videos in {len(draws)} group(s).")
    groups_of: dict[Hashable, set] = defaultdict(set)
    classes_of: dict[Hashable, set] = defaultdict(set)
    for group, classes in zip(groups, labels, strict=True):
        classes_of[group].update(classes)
        for label in classes:
            groups_of[label].add(group)
    chosen = {group for group, draw in draws.items() if draw < share}

    def can_go(group: Hashable) -> bool:
        return all(len(groups_of[label] - chosen) > 1 for label in classes_of[group])

    # The smallest classes first: they have the least choice.
    shown = sorted(groups_of.values(), key=lambda each: (len(each), min(draws[group] for group in each)))
    for each in shown:
        if share * len(each) >= 0.5 and not each & chosen and (spare := list(filter(can_go, each))):
            chosen.add(min(spare, key=draws.__getitem__))
    for each in shown:
        if each <= chosen:
            chosen.discard(max(each, key=draws.__getitem__))
    return [group in chosen for group in groups]


def hold_out_val(listing: Listing, share: float, seed: int, group: str | None):
    """
    Moves a share of `train` to `val`, by [`hold_out`].

    Args:
        listing (`Listing`): Of a collection without `val`.
        share (`float`): About which share; 0 for none.
        seed (`int`): Another one gives another choice.
        group (`str`, *optional*): What must stay together: a column of the csv files; or a regular expression, of
            which counts what its first group, or without groups all of it, matches in the name of a video.

    Raises:
        ValueError: If there is a `val` split, or `share` or `group` do not suit the videos.
    """
    if listing.rows.get("val"):
        raise ValueError(f"{listing.root} has a val split; leave val_share={share} out.")
    if share == 0:
        return
    rows = listing.rows.get("train", [])
    is_val = hold_out(find_groups(listing, rows, group), [row.labels for row in rows], share, seed)
    if not any(is_val):
        raise ValueError(
            f"{listing.root} has too few videos to hold out val_share={share} of them: no class has two"
            + (f" groups by {group!r}." if group else ".")
        )
    listing.rows["train"] = [row for row, chosen in zip(rows, is_val, strict=True) if not chosen]
    listing.rows["val"] = [row for row, chosen in zip(rows, is_val, strict=True) if chosen]
    by = f" by {group!r}" if group else ""
    listing.notes.append(f"{sum(is_val):,} of {len(rows):,} videos are held out as val{by} (val_seed={seed}).")


def find_groups(listing: Listing, rows: list[Row], group: str | None) -> list[str]:
    """
    What each video must not be separated from: by a column of the csv files, by what a regular expression matches in
    its name, or its file alone.

    Raises:
        ValueError: If there is no such column, and the expression is none or does not match all names.
    """
    if group is None:
        return [_name_alike_everywhere(row, listing.root) for row in rows]
    if group in listing.columns:
        if unnamed := [row.where for row in rows if not row.group]:
            raise ValueError(f"{listing.root}: the column {group!r} is empty at {name_some(unnamed)}.")
        return [row.group for row in rows]
    try:
        matches = [re.search(group, row.name) for row in rows]
    except re.error as error:
        raise ValueError(f"The group {group!r} is no regular expression: {error}.") from error
    if unmatched := [row.name for row, match in zip(rows, matches, strict=True) if match is None]:
        columns = f"none of the columns {', '.join(listing.columns)}, and " if listing.columns else ""
        raise ValueError(
            f"The group {group!r} is {columns}not found in the names of {len(unmatched):,} of {len(rows):,} videos: "
            f"{name_some(unmatched)}."
        )
    return [match[match.lastindex or 0] for match in matches]


def _name_alike_everywhere(row: Row, root: Path) -> str:
    """A name that does not depend on where a machine has the collection; all parts of a file have that of the file."""
    if row.video.startswith("subfile,") or not os.path.isabs(row.source_name):
        return row.where if row.video.startswith("subfile,") else row.source_name
    path = Path(row.source_name)
    return str(path.relative_to(root.resolve())) if path.is_relative_to(root.resolve()) else "/".join(path.parts[-2:])


def _draw(name: str, seed: int) -> float:
    """
    A number from 0 to 1. Names that differ in their last number only give the sequence of the golden ratio, which
    leaves no gaps; of other names nothing can be told.
    """
    stem = os.path.splitext(name)[0]
    match = re.fullmatch(r"(.*?)(\d{1,18})(\D*)", stem, re.DOTALL)
    place = int(match[2]) * _GOLDEN_STEP if match else 0
    series = f"{match[1]}\0{match[3]}" if match else name
    digest = hashlib.sha256(f"{seed}\0{series}".encode(errors="surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") + place) % 2**64 / 2**64
