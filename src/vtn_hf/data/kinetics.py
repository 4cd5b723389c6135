"""
Collections of videos as `datasets`: Kinetics and others, in the layouts in which people have them.

Every reader gives the columns `video` (`Video(decode=False)`: a path, or bytes), `label` (`ClassLabel`, or a list of
them where a video may have several) and `name` (what reports call the video, and what its random draws hang on).
Nothing is decoded here, and nothing is left out: a video that is annotated but not on disk is a row too, which
[`vtn_hf.data.coverage.drop_missing`] takes out and counts.
"""

import csv
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    List,
    Value,
    Video,
    load_dataset,
)


# FFmpeg reads many more; these are the ones in which collections of clips come.
VIDEO_EXTENSIONS = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
CLASS_NAMES_FILE = "classes.txt"
# How the label of a WebDataset sample is written, by the ending of its file.
_LABEL_FIELDS = {"cls": int, "txt": bytes.decode, "json": json.loads}

# A row before its class name is a number: path, class name or names, name in reports.
Row = tuple[Path, str | list[str], str]


def load_videos(
    root: str | Path, class_names: list[str] | None = None, streaming: bool = True
) -> DatasetDict | IterableDatasetDict:
    """
    Reads a collection of videos in whichever layout it has.

    | what is in `root` | layout | read by |
    | --- | --- | --- |
    | `annotations/{split}.csv` with a column `youtube_id` | cvdfoundation's | [`load_cvdfoundation`] |
    | `{split}.csv` | PySlowFast's `path label`, or a header with `video` and `label` or `labels` | [`load_csv`] |
    | `{split}*.tar` or `{split}/*.tar` | WebDataset | [`load_webdataset`] |
    | `{split}/{class}/{video}` or `{class}/{video}` | class folders | [`load_class_folders`] |

    A split called `validation`, `validate` or `valid` becomes `val`.

    Args:
        root (`str` or `Path`): The folder.
        class_names (`list[str]`, *optional*): All classes in the order of their labels. Defaults to the lines of
            `root/classes.txt`, and without that file to the classes found, sorted.
        streaming (`bool`, *optional*, defaults to `True`): Of tar files, read those to train on from end to end.

    Returns:
        `DatasetDict`; or, for tar files that are streamed, `IterableDatasetDict` as of [`load_webdataset`].

    Raises:
        FileNotFoundError: If `root` is no folder or holds no videos.
        ValueError: If an annotation cannot be understood or names a class that is none of `class_names`.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder.")
    if any((root / "annotations").glob("*.csv")):
        videos = load_cvdfoundation(root, class_names)
    elif any(root.glob("*.csv")):
        videos = load_csv(root, class_names)
    elif any(root.glob("*.tar")) or any(root.glob("*/*.tar")):
        videos = load_webdataset(root, class_names, streaming)
    else:
        videos = load_class_folders(root, class_names)
    for name in ("validation", "validate", "valid"):
        if name in videos and "val" not in videos:
            videos["val"] = videos.pop(name)
    return videos


def load_class_folders(root: str | Path, class_names: list[str] | None = None) -> DatasetDict:
    """
    Reads `ROOT/{split}/{class name}/{video}` as it is, or `ROOT/{class name}/{video}` as the split `train`.

    Unlike `datasets`' own `videofolder` this takes WebM files too, keeps the names of the splits, and fixes the labels
    even if a split lacks a class. A folder may spell its class with underscores or without punctuation.

    Args:
        root (`str` or `Path`): The folder.
        class_names (`list[str]`, *optional*): As in [`load_videos`].

    Raises:
        FileNotFoundError: If `root` is no folder or holds no videos in class folders.
        ValueError: If a folder is not one of `class_names`.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder.")
    splits = _list_folders(root)
    flat = [name for name, folder in splits.items() if _list_videos(folder)]
    nested = [name for name, folder in splits.items() if any(map(_list_videos, _list_folders(folder).values()))]
    if flat and nested:
        raise ValueError(
            f"{root} holds videos both in {', '.join(flat)} and in class folders below {', '.join(nested)}."
        )
    if flat:
        splits = {"train": root}
    videos = {
        split: {name: _list_videos(folder) for name, folder in _list_folders(split_root).items()}
        for split, split_root in splits.items()
    }
    videos = {split: classes for split, classes in videos.items() if any(classes.values())}
    if not videos:
        raise FileNotFoundError(
            f"{root} holds no videos: expected {root}/CLASS/VIDEO or {root}/SPLIT/CLASS/VIDEO with one of the endings "
            f"{', '.join(VIDEO_EXTENSIONS)}."
        )
    rows = {
        split: [(path, name, path.relative_to(root).as_posix()) for name, paths in classes.items() for path in paths]
        for split, classes in videos.items()
    }
    # A class of which no video could be downloaded is a class all the same.
    found = sorted({name for classes in videos.values() for name in classes})
    return _make_datasets(rows, _find_class_names(root, class_names, found), f"{root} has folders")


def load_cvdfoundation(root: str | Path, class_names: list[str] | None = None) -> DatasetDict:
    """
    Reads Kinetics as cvdfoundation's downloader and extractor leave it: `ROOT/annotations/{split}.csv`, the videos
    `{youtube id}_{start:06d}_{end:06d}.mp4` anywhere below `ROOT/{split}`, and replacements for damaged ones anywhere
    below `ROOT/replacement`, which are preferred.

    A split without labels (the test set of Kinetics-600 and 700) is left out.

    Args:
        root (`str` or `Path`): The folder, such as `k400`.
        class_names (`list[str]`, *optional*): As in [`load_videos`]; [`read_kinetics_labels`] has those of Kinetics.

    Raises:
        FileNotFoundError: If there are no labelled annotations.
        ValueError: If a line cannot be understood.
    """
    root = Path(root)
    replacements = _index_videos(root / "replacement")
    rows = {}
    for path in sorted((root / "annotations").glob("*.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            if "label" not in (table.fieldnames or ()):
                continue
            files = _index_videos(root / path.stem) | replacements
            rows[path.stem] = list(_read_cvdfoundation_table(root, path.stem, table, files))
    if not rows:
        raise FileNotFoundError(f"{root} has no annotations/SPLIT.csv with a column `label`.")
    found = sorted({name for split in rows.values() for _, name, _ in split})
    return _make_datasets(rows, _find_class_names(root, class_names, found), f"{root}/annotations has labels")


def load_csv(root: str | Path, class_names: list[str] | None = None) -> DatasetDict:
    """
    Reads `ROOT/{split}.csv`, of either kind:

    - PySlowFast's, without a header: a path, which may hold spaces, then a space, comma or tab, and the number of the
      class;
    - one's own, with a header that names the columns `video` (a path) and `label` (the name of the class), or `labels`
      (any number of names, separated by semicolons) where a video may show several.

    Paths are relative to `root`, or absolute.

    Args:
        root (`str` or `Path`): The folder.
        class_names (`list[str]`, *optional*): As in [`load_videos`]. Numbers without names are called "0", "1", …,
            up to the highest found.

    Raises:
        FileNotFoundError: If there is no csv file.
        ValueError: If a line cannot be understood, or files are of different kinds.
    """
    root = Path(root)
    tables = {path.stem: _read_csv(path) for path in sorted(root.glob("*.csv"))}
    if not tables:
        raise FileNotFoundError(f"{root} holds no SPLIT.csv.")
    kinds = {split: kind for split, (kind, _) in tables.items()}
    if len(set(kinds.values())) > 1:
        raise ValueError(f"The csv files of {root} are of different kinds: {kinds}.")
    rows = {split: [(root / path, label, path) for path, label in table] for split, (_, table) in tables.items()}
    labels = [label for split in rows.values() for _, label, _ in split]
    if "labels" in kinds.values():
        return _make_datasets(
            rows, _find_class_names(root, class_names, sorted(set().union(*labels))), f"{root} has labels"
        )
    if "path label" in kinds.values():
        numbers = [str(number) for number in range(max(map(int, labels)) + 1)]
        names = _find_class_names(root, class_names, numbers)
        if len(names) < len(numbers):
            raise ValueError(f"{root} has labels up to {numbers[-1]}, but there are only {len(names)} classes.")
        rows = {
            split: [(path, names[int(label)], name) for path, label, name in table] for split, table in rows.items()
        }
        return _make_datasets(rows, names, f"{root} has labels")
    return _make_datasets(rows, _find_class_names(root, class_names, sorted(set(labels))), f"{root} has labels")


def load_webdataset(
    root: str | Path, class_names: list[str] | None = None, streaming: bool = True
) -> DatasetDict | IterableDatasetDict:
    """
    Reads WebDataset shards, `ROOT/{split}*.tar` (such as `train-000.tar`) or `ROOT/{split}/*.tar`.

    A sample is a video (`KEY.mp4`, `KEY.webm`, …) and its class: `KEY.cls` (the number), `KEY.txt` (the name) or
    `KEY.json` (an object with `label`, either).

    The shards of `train` are streamed, which suits slow and far disks. The other splits are `Dataset`s whose `video`
    says at which place of its shard a video is: their number is known, and processes can share them exactly.

    Args:
        root (`str` or `Path`): The folder.
        class_names (`list[str]`): As in [`load_videos`], but needed: a stream does not tell its classes beforehand.
        streaming (`bool`, *optional*, defaults to `True`): Without it, `train` is a `Dataset` as well.

    Returns:
        `IterableDatasetDict`, or `DatasetDict` without `streaming`.

    Raises:
        FileNotFoundError: If there are no tar files.
        ValueError: If the classes are not given, or shards hold no videos or no labels.
    """
    root = Path(root)
    class_names = _find_class_names(root, class_names, None)
    if class_names is None:
        raise ValueError(
            f"Shards do not tell their classes beforehand: give `class_names`, or write {root / CLASS_NAMES_FILE}, "
            "a name per line."
        )
    shards: dict[str, list[str]] = {}
    for path in sorted([*root.glob("*.tar"), *root.glob("*/*.tar")]):
        split = path.parent.name if path.parent != root else re.match("[a-z]*", path.name)[0]
        shards.setdefault(split, []).append(str(path))
    if not shards:
        raise FileNotFoundError(f"{root} holds no SPLIT*.tar and no SPLIT/*.tar.")
    features = _make_features(class_names)
    videos = IterableDatasetDict() if streaming else DatasetDict()
    for split, paths in shards.items():
        read = _stream_shards if streaming and split == "train" else _index_shards
        videos[split] = read(paths, split, features)
    return videos


def read_kinetics_labels(num_classes: int) -> list[str]:
    """
    Reads the class names of Kinetics, in the order of the published checkpoints, which is alphabetical.

    The lists are those of mmaction2 (`tools/data/kinetics/label_map_k{400,600,700}.txt`).

    Args:
        num_classes (`int`): 400, 600 or 700.

    Returns:
        `list[str]`: One name per class; the position of a name is its label.

    Raises:
        ValueError: If there is no Kinetics of that size.
    """
    if num_classes not in (400, 600, 700):
        raise ValueError(f"The labels of Kinetics-400, 600 and 700 are known, got num_classes={num_classes}.")
    file = resources.files(__package__).joinpath(f"kinetics_{num_classes}_labels.txt")
    return file.read_text(encoding="utf-8").splitlines()


# Hidden files and folders are those of Jupyter, macOS and the like, not videos and classes.
def _list_folders(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."}


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_EXTENSIONS and path.name[0] != "."


def _list_videos(folder: Path) -> list[Path]:
    return sorted(filter(_is_video, folder.iterdir()))


def _index_videos(folder: Path) -> dict[str, Path]:
    """The videos anywhere below a folder, by their names without ending."""
    return {path.stem: path for path in sorted(filter(_is_video, folder.rglob("*")))}


def _find_class_names(root: Path, class_names: list[str] | None, found: list[str] | None) -> list[str] | None:
    """The classes in the order of their labels: as given, or as in the folder's own list, or as found."""
    file = root / CLASS_NAMES_FILE
    if class_names is None and file.is_file():
        class_names = file.read_text(encoding="utf-8").splitlines()
    if class_names is None:
        return found
    if len(set(class_names)) < len(class_names):
        raise ValueError(f"Class names must differ, got {sorted(class_names)}.")
    return class_names


def _make_features(class_names: list[str], multi_label: bool = False) -> Features:
    label = ClassLabel(names=class_names)
    return Features(
        {"video": Video(decode=False), "label": List(label) if multi_label else label, "name": Value("string")}
    )


def _make_datasets(rows: dict[str, list[Row]], class_names: list[str], subject: str) -> DatasetDict:
    """Turns class names into labels; `subject` begins the error about names that are none of the classes."""
    multi_label = any(isinstance(label, list) for split in rows.values() for _, label, _ in split)
    find_label = _make_label_lookup(tuple(class_names))
    labels, unknown = {}, set()
    for split, split_rows in rows.items():
        for _, names, _ in split_rows:
            unknown |= {name for name in (names if multi_label else [names]) if find_label(name) is None}
        labels[split] = [
            [find_label(name) for name in names] if multi_label else find_label(names) for _, names, _ in split_rows
        ]
    if unknown:
        raise ValueError(f"{subject} that are none of the {len(class_names)} classes: {', '.join(sorted(unknown))}.")
    features = _make_features(class_names, multi_label)
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "video": [str(path) for path, _, _ in split_rows],
                    "label": labels[split],
                    "name": [name for _, _, name in split_rows],
                },
                features=features,
            )
            for split, split_rows in rows.items()
        }
    )


@lru_cache
def _make_label_lookup(class_names: tuple[str, ...]) -> Callable[[str], int | None]:
    """A function from the name of a class to its label: as it is spelt, or with other spaces and punctuation."""
    exact = {name: label for label, name in enumerate(class_names)}
    simplified = {_simplify(name): label for label, name in enumerate(class_names)}
    if len(simplified) < len(exact):  # then the punctuation matters
        simplified = {}
    return lambda name: exact.get(name, simplified.get(_simplify(name)))


def _simplify(class_name: str) -> str:
    return re.sub(r"\W|_", "", class_name).lower()


def _read_cvdfoundation_table(root: Path, split: str, table: csv.DictReader, files: dict[str, Path]) -> Iterator[Row]:
    for line in table:
        try:
            name = f"{line['youtube_id']}_{int(line['time_start']):06d}_{int(line['time_end']):06d}"
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{root}/annotations/{split}.csv:{table.line_num}: expected youtube_id, time_start and time_end "
                f"(whole seconds), got {line}."
            ) from error
        path = files.get(name, root / split / f"{name}.mp4")
        yield path, line["label"], path.relative_to(root).as_posix()


def _read_csv(file: Path) -> tuple[str, list[tuple[str, str | list[str]]]]:
    """What kind of table a csv file is ("path label", "label" or "labels"), and its paths and class names."""
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    header = next(csv.reader(lines[:1]), [])
    rows = []
    if "video" in header and ("label" in header or "labels" in header):
        kind = "label" if "label" in header else "labels"
        table = csv.DictReader(lines)
        for line in table:
            if not line["video"] or line[kind] is None:
                raise ValueError(f"{file}:{table.line_num}: expected a video and its {kind}, got {line}.")
            names = [name.strip() for name in line[kind].split(";") if name.strip()]
            rows.append((line["video"], line[kind] if kind == "label" else names))
        return kind, rows
    for number, line in enumerate(lines, start=1):
        # Paths may hold spaces: the last separator counts.
        match = re.fullmatch(r"(.*\S)\s*[ ,\t]\s*(\d+)\s*", line)
        if match is None:
            raise ValueError(
                f"{file}:{number}: expected a path and the number of a class, as PySlowFast has them, or in line 1 a "
                f"header with the columns video and label or labels, got {line!r}."
            )
        rows.append(match.groups())
    return "path label", rows


def _stream_shards(paths: list[str], split: str, features: Features) -> IterableDataset:
    """The samples with their videos, in order."""
    stream = load_dataset("webdataset", data_files={split: paths}, split=split, streaming=True)
    for field in stream.features:
        if _is_video_field(field) and isinstance(stream.features[field], (Video, Image)):
            stream = stream.cast_column(field, Video(decode=False))  # `datasets` takes .mpg for an image
    _check_fields(paths[0], stream.features)
    read = partial(_read_sample, features=features)
    return stream.map(read, remove_columns=stream.column_names, features=features)


def _index_shards(paths: list[str], split: str, features: Features) -> Dataset:
    """The samples with the places of their videos, read off the shards' tables of contents."""
    samples: list[dict] = []
    for path in paths:
        by_key: dict[str, dict] = {}
        with tarfile.open(path) as shard:
            for member in filter(tarfile.TarInfo.isfile, shard):
                folder, slash, name = member.name.rpartition("/")
                key, _, field = name.partition(".")
                sample = by_key.setdefault(folder + slash + key, {"__key__": folder + slash + key})
                if _is_video_field(field):
                    part = f"subfile,,start,{member.offset_data},end,{member.offset_data + member.size},,:{path}"
                    sample[field] = {"path": part, "bytes": None}
                else:
                    read = _LABEL_FIELDS.get(field)
                    sample[field] = read and read(shard.extractfile(member).read())
        samples += by_key.values()
    _check_fields(paths[0], {field for sample in samples for field in sample})
    return Dataset.from_list([_read_sample(each, features) for each in samples], features=features, split=split)


def _is_video_field(field: str) -> bool:
    return f".{field.lower()}" in VIDEO_EXTENSIONS


def _check_fields(shard: str, found: Iterable[str]):
    if not (any(map(_is_video_field, found)) and any(field in _LABEL_FIELDS for field in found)):
        raise ValueError(f"{shard} holds no videos, or no labels (cls, txt, json): {sorted(set(found))}.")


def _read_sample(sample: dict, features: Features) -> dict:
    """A WebDataset sample to a row."""
    key = sample["__key__"]
    filled = {field: value for field, value in sample.items() if value is not None}
    # A sample without a video is like one with an empty file: it is skipped and listed when it is to be decoded.
    field, video = next(((field, filled[field]) for field in filled if _is_video_field(field)), ("", b""))
    if isinstance(video, bytes):  # with an ending that `datasets` does not know
        video = {"path": f"{key}.{field}", "bytes": video}
    label = next((filled[field] for field in _LABEL_FIELDS if field in filled), None)
    label = label["label"] if isinstance(label, dict) else label
    class_names = features["label"].names
    number = _make_label_lookup(tuple(class_names))(label.strip()) if isinstance(label, str) else label
    if number is None or not 0 <= number < len(class_names):
        raise ValueError(f"{key} is of class {label!r}, which is none of the {len(class_names)}.")
    return {"video": video, "label": number, "name": key}
