"""Reads data sets of `datasets` with a column of videos: of the Hub, or of a folder; as files, or bytes in parquet."""

import os
from collections import Counter
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, Video, load_dataset

from .class_names import clean_name, describe_unknown, make_label_lookup
from .collection import Collection
from .splits import find_split, hold_out


def read_dataset(
    name: str,
    config_name: str | None = None,
    class_names: list[str] | None = None,
    *,
    val_share: float | None = None,
    val_seed: int = 0,
    val_group: str | None = None,
) -> Collection:
    """
    Reads a data set with a column of the type `Video`; decodes none of them.

    Args:
        name (`str`): As in `datasets.load_dataset`: a repository on the Hub, or a folder.
        config_name (`str`, *optional*): Which of its configurations.
        class_names (`list[str]`, *optional*): All classes in the order of their labels. Defaults to those of the
            column of labels.
        val_share, val_seed: As in [`read_collection`].
        val_group (`str`, *optional*): A column of what must stay together.

    Raises:
        ValueError: If it has no column of videos, or none of labels, or they cannot be understood.
    """
    found = load_dataset(name, config_name)
    videos = {find_split(split) or split: _choose_columns(rows, name, val_group) for split, rows in found.items()}
    names = [clean_name(each) for each in class_names] if class_names else _find_class_names(videos, name)
    notes, is_multi_label = [], any(isinstance(rows.features["label"], List) for rows in videos.values())
    if val_share and not videos.get("val"):
        _hold_out_val(videos, val_share, val_seed, val_group, notes)
    label = List(ClassLabel(names=names)) if is_multi_label else ClassLabel(names=names)
    features = Features({"video": Video(decode=False), "label": label, "name": Value("string")})
    counts, splits = {}, DatasetDict()
    for split, rows in videos.items():
        numbers = _find_numbers(rows, names, name)
        counts[split] = Counter(names[number] for each in numbers for number in each)
        rows = rows.remove_columns([column for column in rows.column_names if column != "video"])
        rows = rows.add_column("label", numbers if is_multi_label else [each[0] for each in numbers])
        splits[split] = rows.add_column("name", _name_videos(rows, split)).cast(features)
    num_videos = {split: len(rows) for split, rows in splits.items()}
    nothing = {split: [] for split in splits}, {split: {} for split in splits}
    return Collection(
        Path(name), splits, names, class_names is not None, is_multi_label, num_videos, counts, *nothing, notes
    )


def _choose_columns(rows: Dataset, name: str, group: str | None) -> Dataset:
    """The columns `video`, `label` and that of the groups, whatever they are called."""
    columns = {column: feature for column, feature in rows.features.items() if isinstance(feature, Video)}
    labels = [column for column in ("label", "labels") if column in rows.features]
    labels = labels or [column for column, feature in rows.features.items() if isinstance(feature, ClassLabel)]
    if len(columns) != 1 or len(labels) != 1:
        raise ValueError(
            f"{name} must have one column of the type Video and one of labels, called label or a ClassLabel; "
            f"it has {', '.join(f'{column} ({feature})' for column, feature in rows.features.items())}."
        )
    if group is not None and group not in rows.column_names:
        raise ValueError(f"{name} has no column {group!r}, but {', '.join(rows.column_names)}.")
    (video,), (label,) = columns, labels
    rows = rows.select_columns(list(dict.fromkeys([video, label, *([group] if group else [])])))
    if group in (video, label):
        raise ValueError(f"The column {group!r} of {name} is that of videos or labels, and tells no groups.")
    return rows.rename_columns({video: "video", label: "label"}).cast_column("video", Video(decode=False))


def _as_list(label) -> list:
    return label if isinstance(label, list) else [label]


def _find_class_names(videos: dict[str, Dataset], name: str) -> list[str]:
    feature = next(iter(videos.values())).features["label"]
    feature = feature.feature if isinstance(feature, List) else feature
    if isinstance(feature, ClassLabel):
        return [clean_name(each) for each in feature.names]
    found = {label for rows in videos.values() for each in rows["label"] for label in _as_list(each)}
    if found and all(isinstance(label, str) for label in found):
        return sorted({clean_name(label) for label in found})
    if found and all(isinstance(label, int) and label >= 0 for label in found):
        return [str(number) for number in range(max(found) + 1)]
    raise ValueError(f"The labels of {name} must be names or numbers from 0 on, got {describe_unknown(found, [])}.")


def _find_numbers(rows: Dataset, names: list[str], name: str) -> list[list[int]]:
    """The classes of each video, by their numbers in `names`."""
    feature = rows.features["label"]
    feature = feature.feature if isinstance(feature, List) else feature
    lookup, numbers = make_label_lookup(tuple(names)), []
    for each in rows["label"]:
        labels = [feature.int2str(one) if isinstance(feature, ClassLabel) else one for one in _as_list(each)]
        found = [lookup(clean_name(label)) if isinstance(label, str) else label for label in labels]
        if any(number is None or not 0 <= number < len(names) for number in found):
            raise ValueError(f"{name} has the label {labels}, which is none of the {len(names)} classes.")
        numbers.append(sorted(set(found)))
    return numbers


def _name_videos(rows: Dataset, split: str) -> list[str]:
    """The names of the files, where they differ; else numbers."""
    paths = [path for chunk in rows.data.column("video").chunks for path in chunk.field("path").to_pylist()]
    names = [os.path.basename(path or "") for path in paths]
    are_names = len(set(names)) == len(names) == len(rows) and all(names)
    return [f"{split}/{names[number] if are_names else number}" for number in range(len(rows))]


def _hold_out_val(videos: dict[str, Dataset], share: float, seed: int, group: str | None, notes: list[str]):
    rows = videos["train"]
    groups = [str(each) for each in rows[group]] if group else _name_videos(rows, "train")
    is_val = hold_out(groups, [_as_list(label) for label in rows["label"]], share, seed)
    videos["val"] = rows.select([number for number, chosen in enumerate(is_val) if chosen]).flatten_indices()
    videos["train"] = rows.select([number for number, chosen in enumerate(is_val) if not chosen]).flatten_indices()
    notes.append(f"{sum(is_val):,} of {len(is_val):,} videos are held out as val (val_seed={seed}).")
