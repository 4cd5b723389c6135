"""
A collection of videos as training, extraction and evaluation read it: one function, so that all see the same.

    collection = read_collection("VIDEOS", val_share=0.2)
    print(collection.describe())                    # a table of the classes, and what is odd
    collection.check_training()
    collection.videos["train"][0]                   # {"video": {"path": …, "bytes": None}, "label": 3, "name": …}
"""

import itertools
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDatasetDict, List, Value, Video

from .class_names import CLASS_NAMES_FILE, describe_unknown
from .labels import choose_class_names, resolve_labels
from .layouts import list_videos
from .listing import Listing, Row, find_file, name_some
from .scan import drop_bad_videos
from .splits import SPLIT_NAMES, hold_out_val


@dataclass
class Collection:
    """
    The videos of a collection that are there, by split, and what it lacks.

    Args:
        root (`Path`): The folder.
        videos (`DatasetDict` or `IterableDatasetDict`): Of each split, rows with `video` (`Video(decode=False)`: a
            path, a URL, or a part of a file), `label` (`ClassLabel`, or a list of them where a video may have several)
            and `name` (what reports call the video, and what its random draws hang on); where the list says so,
            `start_sec` and `end_sec`, the part of the file that is meant.
        class_names (`list[str]`): In the order of the labels.
        is_given (`bool`): Whether the classes were given, rather than found.
        is_multi_label (`bool`): Whether a video may show several classes.
        num_videos (`dict[str, int | None]`): Of each split, the number of videos; `None` if it is a stream, which does
            not tell.
        counts (`dict[str, Counter]`): Of each split, the number of videos of each class, by its name; not of a stream.
        missing (`dict[str, list[str]]`): Of each split, the names of the videos that are listed but not on disk.
        bad (`dict[str, dict[str, str]]`): Of each split, the names of those known to be bad, with the reasons.
        notes (`list[str]`): What is odd, and no error.
    """

    root: Path
    videos: DatasetDict | IterableDatasetDict
    class_names: list[str]
    is_given: bool
    is_multi_label: bool
    num_videos: dict[str, int | None]
    counts: dict[str, Counter]
    missing: dict[str, list[str]]
    bad: dict[str, dict[str, str]]
    notes: list[str]

    def get_split(self, name: str) -> Dataset:
        """
        The videos of a split.

        Raises:
            ValueError: If there is none of that name, or it has no videos.
        """
        if self.num_videos.get(name, 0) == 0:
            there = ", ".join(split for split, number in self.num_videos.items() if number != 0) or "nothing"
            names = ", ".join(SPLIT_NAMES.get(name, (name,)))
            raise ValueError(f"{self.root} has no videos of a split {name!r} (called {names}), but of: {there}.")
        return self.videos[name]

    def check_training(self, needs_val: bool = True):
        """
        Makes sure that a model can be trained on `train`, and evaluated on `val`.

        Args:
            needs_val (`bool`, *optional*, defaults to `True`): Whether `val` must be there.

        Raises:
            ValueError: If a split is missing; or if `val` shows a class that `train` does not, unless all classes were
                given.
        """
        self.get_split("train")
        if not self.num_videos.get("val"):
            if needs_val:
                raise ValueError(
                    f"{self.root} has no val split to evaluate on: give --val_share 0.2 to hold a fifth of train "
                    "out (to do without: --val_share 0 in extraction, --eval_strategy no in training)."
                )
            return
        if "train" not in self.counts:
            return
        train, val = self.counts["train"], self.counts["val"]
        if (unseen := sorted(val.keys() - train.keys())) and not self.is_given:
            raise ValueError(
                f"{self.root}: val shows classes of which train has no video: {describe_unknown(unseen, [*train])}. "
                f"Move or rename them, or list all classes in {self.root / CLASS_NAMES_FILE}."
            )

    def describe(self) -> str:
        """A table of the classes with their numbers of videos in each split, and below it what is odd."""
        names = [name if name.isprintable() else repr(name)[1:-1] for name in self.class_names]
        width = max(map(len, (*names, "all videos")))
        splits = list(self.num_videos)
        lines = [f"{'class':{width}}" + "".join(f"  {split:>7}" for split in splits)]
        for name, shown in zip(self.class_names, names, strict=True):
            numbers = [self.counts[split][name] if split in self.counts else None for split in splits]
            lines.append(f"{shown:{width}}" + "".join(map(_show_number, numbers)))
        lines.append(f"{'all videos':{width}}" + "".join(map(_show_number, self.num_videos.values())))
        return "\n".join(lines + [f"Note: {note}" for note in (*self.notes, *self._find_oddities())])

    def _find_oddities(self) -> Iterator[str]:
        train, val = (self.counts.get(split, Counter()) for split in ("train", "val"))
        unused = [name for name in self.class_names if not any(counts[name] for counts in self.counts.values())]
        if unused and None not in self.num_videos.values():
            yield f"{len(unused):,} of {len(self.class_names):,} classes have no videos: {name_some(unused)}."
        if len(self.class_names) == 1:
            yield f"there is one class only, {self.class_names[0]!r}; nothing can be learned from that."
        if self.num_videos.get("val") and "train" in self.counts:
            if only_train := sorted(train.keys() - val.keys()):
                yield f"val has no videos of {len(only_train):,} class(es) that train has: {name_some(only_train)}."
            if only_val := sorted(val.keys() - train.keys()):
                yield f"train has no videos of {len(only_val):,} class(es) that val has: {name_some(only_val)}."
        for split, names in self.missing.items():
            if names:
                yield f"{split} lists {len(names):,} video(s) that are not on disk: {name_some(names)}."
        for split, reasons in self.bad.items():
            if reasons:
                shown = name_some([f"{name}: {reason.rstrip('.')}" for name, reason in reasons.items()])
                yield f"{split} has {len(reasons):,} that are known to be bad: {shown}."


def _show_number(number: int | None) -> str:
    """A field of a table; of a stream nothing is known."""
    return f"  {'?':>7}" if number is None else f"  {number:>7,}"


def read_collection(
    root: str | Path,
    class_names: list[str] | None = None,
    *,
    scan_table: str | Path | None = None,
    val_share: float | None = None,
    val_seed: int = 0,
    val_group: str | None = None,
    streaming: bool = False,
) -> Collection:
    """
    Reads a collection of videos in whichever layout it has ([`vtn_hf.data.layouts.list_videos`]); opens none of them.

    Args:
        root (`str` or `Path`): The folder.
        class_names (`list[str]`, *optional*): All classes in the order of their labels. Defaults to the lines of
            `root/classes.txt`, and without that file to the classes found, sorted.
        scan_table (`str` or `Path`, *optional*): A table of [`vtn_hf.data.scan.scan_videos`]: what is bad by it is
            left out.
        val_share (`float`, *optional*): Where there is no `val`, about which share of `train` to hold out for it, by
            [`vtn_hf.data.splits.hold_out`]; 0 for none.
        val_seed (`int`, *optional*, defaults to 0): Another one holds others out.
        val_group (`str`, *optional*): What must stay together: a column of the csv files; or a regular expression, of
            which counts what its first group, or without groups all of it, matches in the name of a video.
        streaming (`bool`, *optional*, defaults to `False`): Make `train` of tar files an `IterableDataset` of as many
            parts as there are files, which suits slow disks.

    Raises:
        FileNotFoundError: If `root` is no folder or holds no videos.
        ValueError: If something in it cannot be understood or contradicts itself, names a class that is none of
            `class_names`, or spells one in several ways; or if `val_share` or `val_group` do not suit it.
    """
    listing, names, is_given = read_listing(root, class_names, scan_table, val_group)
    is_multi_label = any(isinstance(row.label, list) for rows in listing.rows.values() for row in rows)
    missing = listing.missing
    if val_share is not None:
        hold_out_val(listing, val_share, val_seed, val_group)
        missing = {split: missing.get(split, []) for split in listing.rows}
    videos = _make_datasets(listing, names, is_multi_label, streaming)
    counts = {
        split: Counter(names[label] for row in rows for label in row.labels) for split, rows in listing.rows.items()
    }
    num_videos: dict[str, int | None] = {split: len(rows) for split, rows in listing.rows.items()}
    bad = {split: listing.bad[split] for split in {**listing.rows, **listing.bad}}
    return Collection(
        listing.root, videos, names, is_given, is_multi_label, num_videos, counts, missing, bad, listing.notes
    )


def read_listing(
    root: str | Path,
    class_names: list[str] | None = None,
    scan_table: str | Path | None = None,
    group_column: str | None = None,
) -> tuple[Listing, list[str], bool]:
    """
    What [`read_collection`] makes its data sets of: the videos that are there, with the numbers of their classes; the
    names of the classes, and whether they were given. Arguments and errors are its.
    """
    listing = list_videos(Path(root).expanduser(), group_column)
    names, is_given = choose_class_names(listing, class_names)
    resolve_labels(listing, names)
    _drop_missing(listing)
    _check_repeats(listing)
    if scan_table is not None:
        drop_bad_videos(listing, scan_table)
    return listing, names, is_given


def _drop_missing(listing: Listing):
    """Takes out the videos that are not on disk; URLs may be there."""
    for split, rows in listing.rows.items():
        for row in rows:
            file = find_file(row.video)
            row.file_id = row.video if file is None else _identify(file)
        listing.missing[split] = [row.name for row in rows if row.file_id is None]
        listing.rows[split] = [row for row in rows if row.file_id is not None]


def _check_repeats(listing: Listing):
    """Says which files are listed more than once, and refuses those that are listed with different classes."""
    seen: dict[Hashable, tuple[str, Row]] = {}
    repeats = defaultdict(list)
    for split, rows in listing.rows.items():
        for row in rows:
            identity = row.video if listing.num_shards else row.file_id
            first_split, first = seen.setdefault((identity, *row.segment), (split, row))
            if first is row:
                continue
            if split == first_split and row.label != first.label:
                raise ValueError(
                    f"{listing.root}: {first.where} and {row.where} are the same file, but of different classes. A "
                    "video that shows several classes needs a csv file with a column `labels`."
                )
            repeats[first_split, split].append(f"{first.where} and {row.where}")
    for (first_split, split), places in repeats.items():
        what = f"{split} more than once" if first_split == split else f"both {first_split} and {split}"
        listing.notes.append(f"{len(places):,} file(s) are listed in {what}: {name_some(places)}.")
    for (first_split, split), names in _find_shared_files(listing).items():
        listing.notes.append(
            f"{len(names):,} file(s) have parts in both {first_split} and {split}: {name_some(names)}."
        )


def _find_shared_files(listing: Listing) -> dict[tuple[str, str], list[str]]:
    """The files of which one split has a part and another split another one, by the two splits."""
    splits, names, segments = defaultdict(set), {}, defaultdict(set)
    for split, rows in listing.rows.items():
        for row in rows:
            splits[row.file_id].add(split)
            segments[row.file_id].add(row.segment)
            names[row.file_id] = row.source_name
    shared = defaultdict(list)
    for file_id, found in splits.items():
        if len(segments[file_id]) > 1 and not listing.num_shards:
            for pair in itertools.combinations(sorted(found, key=list(listing.rows).index), 2):
                shared[pair].append(names[file_id])
    return shared


def _identify(file: str) -> Hashable | None:
    """What all names of a file have in common; `None` if it is not there."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # the second: a name with a null byte
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else file


def _make_datasets(
    listing: Listing, class_names: list[str], is_multi_label: bool, streaming: bool
) -> DatasetDict | IterableDatasetDict:
    label = ClassLabel(names=class_names)
    label = List(label) if is_multi_label else label
    features = Features({"video": Video(decode=False), "label": label, "name": Value("string")})
    if any(row.segment != (None, None) for rows in listing.rows.values() for row in rows):
        features |= {"start_sec": Value("float64"), "end_sec": Value("float64")}
    videos = DatasetDict()
    for split, rows in listing.rows.items():
        values = {column: [getattr(row, column) for row in rows] for column in features}
        videos[split] = Dataset.from_dict(values, features=features)
    if streaming and listing.num_shards and "train" in videos:
        num_parts = min(listing.num_shards, len(videos["train"]))
        videos = IterableDatasetDict(videos | {"train": videos["train"].to_iterable_dataset(num_shards=num_parts)})
    return videos
