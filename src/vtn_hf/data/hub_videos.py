"""Reads data sets of `datasets` with a column of videos: of the Hub, or of a folder; as files, or bytes in parquet."""

import os
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    List,
    Value,
    Video,
    load_dataset,
    load_dataset_builder,
)

from .class_names import clean_name, describe_unknown, make_label_lookup, name_by_numbers
from .collection import Collection
from .listing import is_video_name
from .splits import find_split, hold_out


Rows: TypeAlias = Dataset | IterableDataset


def read_dataset(
    name: str,
    config_name: str | None = None,
    class_names: list[str] | None = None,
    *,
    val_share: float | None = None,
    val_seed: int = 0,
    val_group: str | None = None,
    streaming: bool = False,
    splits: Sequence[str] = ("train", "val"),
) -> Collection:
    """
    Reads a data set with a column of the type `Video`; decodes none of them. A split without labels is left out.

    Args:
        name (`str`): As in `datasets.load_dataset`: a repository on the Hub, or a folder.
        config_name (`str`, *optional*): Which of its configurations.
        class_names (`list[str]`, *optional*): All classes in the order of their labels. Defaults to those of the
            column of labels.
        val_share, val_seed: As in [`read_collection`].
        val_group (`str`, *optional*): A column of what must stay together.
        streaming (`bool`, *optional*, defaults to `False`): Download no more than it takes. Videos that are files are
            read where they are, when they are used. Of others, such as bytes in parquet files, `train` becomes an
            `IterableDataset`, and other splits are downloaded.
        splits (`Sequence[str]`, *optional*, defaults to `("train", "val")`): Which ones are wanted of a stream.

    Raises:
        ValueError: If it has no column of videos, or none of labels, or they cannot be understood; or if a stream does
            not tell beforehand what is needed.
    """
    found = _load_streams(name, config_name, splits) if streaming else load_dataset(name, config_name)
    videos = {find_split(split) or split: _choose_columns(rows, name, val_group) for split, rows in found.items()}
    notes = _drop_unlabelled(videos, name)
    names = [clean_name(each) for each in class_names] if class_names else _find_class_names(videos, name)
    is_multi_label = any(isinstance(rows.features["label"], List) for rows in videos.values())
    if val_share and not videos.get("val"):
        _hold_out_val(videos, name, val_share, val_seed, val_group, notes)
    label = List(ClassLabel(names=names)) if is_multi_label else ClassLabel(names=names)
    features = Features({"video": Video(decode=False), "label": label, "name": Value("string")})
    counts, numbered = {}, {}
    num_videos: dict[str, int | None] = {}
    for split, rows in videos.items():
        find_numbers = partial(_find_numbers, feature=rows.features["label"], names=names, name=name)
        if isinstance(rows, IterableDataset):
            convert = partial(_convert_row, split=split, find_numbers=find_numbers, is_multi_label=is_multi_label)
            numbered[split], num_videos[split] = rows.map(convert, features=features), None
        else:
            numbers = find_numbers(rows["label"])
            numbered[split], num_videos[split] = _replace_labels(rows, numbers, split, features), len(rows)
            counts[split] = Counter(names[number] for each in numbers for number in each)
    is_stream = any(isinstance(rows, IterableDataset) for rows in numbered.values())
    numbered = IterableDatasetDict(numbered) if is_stream else DatasetDict(numbered)
    nothing: tuple[dict, dict] = {split: [] for split in numbered}, {split: {} for split in numbered}
    return Collection(
        Path(name), numbered, names, class_names is not None, is_multi_label, num_videos, counts, *nothing, notes
    )


def _load_streams(name: str, config_name: str | None, wanted: Sequence[str]) -> dict[str, Rows]:
    """The splits of a data set that are files, and others that are wanted, with as little downloaded as can be."""
    files = load_dataset_builder(name, config_name).config.data_files or {}
    found = {}
    for split, rows in load_dataset(name, config_name, streaming=True).items():
        rows = rows.decode(False)
        if any(is_video_name(os.path.basename(file)) for file in files.get(split, ())):
            # A list of paths, which is short.
            found[split] = Dataset.from_list(list(rows), features=rows.features)
        elif find_split(split) == "train" and "train" in wanted:
            found[split] = rows
        elif (find_split(split) or split) in wanted:
            # Without this, all splits would be downloaded.
            only = {"data_files": {split: files[split]}, "verification_mode": "no_checks"} if split in files else {}
            found[split] = load_dataset(name, config_name, split=split, **only)
    return found


def _choose_columns(rows: Rows, name: str, group: str | None) -> Rows:
    """The columns `video`, `label` and that of the groups, whatever they are called."""
    features = rows.features or {}
    columns = [column for column, feature in features.items() if isinstance(feature, Video)]
    labels = [column for column in ("label", "labels") if column in features]
    labels = labels or [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    if len(columns) != 1 or len(labels) != 1:
        raise ValueError(
            f"{name} must have one column of the type Video and one of labels, called label or a ClassLabel; "
            f"it has {', '.join(f'{column} ({feature})' for column, feature in features.items())}."
        )
    if group is not None and group not in features:
        raise ValueError(f"{name} has no column {group!r}, but {', '.join(features)}.")
    (video,), (label,) = columns, labels
    rows = rows.select_columns(list(dict.fromkeys([video, label, *([group] if group else [])])))
    if group in (video, label):
        raise ValueError(f"The column {group!r} of {name} is that of videos or labels, and tells no groups.")
    renamed = {old: new for old, new in ((video, "video"), (label, "label")) if old != new}
    # Streams rename nothing to what it is.
    rows = rows.rename_columns(renamed) if renamed else rows
    return rows.cast_column("video", Video(decode=False))


def _as_list(label) -> list:
    return label if isinstance(label, list) else [label]


def _drop_unlabelled(videos: dict[str, Rows], name: str) -> list[str]:
    """Leaves out the splits that have no labels, such as the test sets of competitions, and says so."""
    bare = [
        split
        for split, rows in videos.items()
        if isinstance(rows, Dataset) and len(rows) and all(each in (None, -1, [], "") for each in rows["label"])
    ]
    notes = [f"{split} has no labels, and is left out." for split in bare]
    for split in bare:
        del videos[split]
    if not videos:
        raise ValueError(f"{name} has no videos with labels of the splits that are wanted. {' '.join(notes)}")
    return notes


def _find_class_names(videos: dict[str, Rows], name: str) -> list[str]:
    feature = next(iter(videos.values())).features["label"]
    feature = feature.feature if isinstance(feature, List) else feature
    if isinstance(feature, ClassLabel):
        return [clean_name(each) for each in feature.names]
    if any(isinstance(rows, IterableDataset) for rows in videos.values()):
        raise ValueError(f"{name} is streamed, and does not tell its classes beforehand: give class_names.")
    found = {label for rows in videos.values() for each in rows["label"] for label in _as_list(each)}
    if found and all(isinstance(label, str) for label in found):
        return sorted({clean_name(label) for label in found})
    if found and all(isinstance(label, int) and label >= 0 for label in found):
        return name_by_numbers(found, name)
    unknown = describe_unknown(map(str, found), [])
    raise ValueError(f"The labels of {name} must be names or numbers from 0 on, got {unknown}.")


def _find_numbers(labels: Sequence, feature: Any, names: list[str], name: str) -> list[list[int]]:
    """The classes of each video, by their numbers in `names`."""
    feature = feature.feature if isinstance(feature, List) else feature
    lookup, numbers = make_label_lookup(tuple(names)), []
    for each in labels:
        found = [_find_number(one, feature, lookup) for one in _as_list(each)]
        if any(number is None or not 0 <= number < len(names) for number in found):
            raise ValueError(f"{name} has the label {each!r}, which is none of the {len(names)} classes.")
        numbers.append(sorted(set(found)))
    return numbers


def _find_number(label: str | int | None, feature: Any, lookup: Callable[[str], int | None]) -> int | None:
    if isinstance(feature, ClassLabel) and label in range(feature.num_classes):
        label = feature.int2str(label)
    return lookup(clean_name(label)) if isinstance(label, str) else label


def _replace_labels(rows: Dataset, numbers: list[list[int]], split: str, features: Features) -> Dataset:
    """The rows with the columns of a [`Collection`]."""
    rows = rows.remove_columns([column for column in rows.column_names if column != "video"])
    is_multi_label = isinstance(features["label"], List)
    rows = rows.add_column("label", numbers if is_multi_label else [each[0] for each in numbers])
    return rows.add_column("name", _name_videos(rows, split)).cast(features)


def _convert_row(
    row: dict[str, Any], split: str, find_numbers: Callable[[list], list[list[int]]], is_multi_label: bool
) -> dict[str, Any]:
    """A row of a stream with the same columns."""
    ((*numbers,),) = find_numbers([row["label"]])
    path = "/".join((row["video"]["path"] or "").partition("::")[0].split("/")[-2:])
    name = path or f"{zlib.crc32(row['video']['bytes']):08x}"
    return {"video": row["video"], "label": numbers if is_multi_label else numbers[0], "name": f"{split}/{name}"}


def _name_videos(rows: Dataset, split: str) -> list[str]:
    """The names of the files, where they differ; else numbers."""
    paths = [path for chunk in rows.data.column("video").chunks for path in chunk.field("path").to_pylist()]
    names = [os.path.basename(path or "") for path in paths]
    are_names = len(set(names)) == len(names) == len(rows) and all(names)
    return [f"{split}/{names[number] if are_names else number}" for number in range(len(rows))]


def _hold_out_val(videos: dict[str, Rows], name: str, share: float, seed: int, group: str | None, notes: list[str]):
    rows = videos["train"]
    if isinstance(rows, IterableDataset):
        raise ValueError(
            f"{name} is streamed, and val_share={share} of it cannot be told beforehand: leave streaming out, or do "
            "without (--eval_strategy no)."
        )
    groups = [str(each) for each in rows[group]] if group else _name_videos(rows, "train")
    is_val = hold_out(groups, [_as_list(label) for label in rows["label"]], share, seed)
    videos["val"] = rows.select([number for number, chosen in enumerate(is_val) if chosen]).flatten_indices()
    videos["train"] = rows.select([number for number, chosen in enumerate(is_val) if not chosen]).flatten_indices()
    notes.append(f"{sum(is_val):,} of {len(is_val):,} videos are held out as val (val_seed={seed}).")
