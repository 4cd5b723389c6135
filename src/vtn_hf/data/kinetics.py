"""Kinetics and collections laid out like it: the label order, and class folders as a `datasets.DatasetDict`."""

from importlib import resources
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Video


# FFmpeg reads many more; these are the ones in which collections of clips come.
VIDEO_EXTENSIONS = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


def load_class_folders(root: str | Path, class_names: list[str] | None = None) -> DatasetDict:
    """
    Reads `ROOT/{split}/{class name}/{video}` as it is, or `ROOT/{class name}/{video}` as the split `train`.

    Unlike `datasets`' own `videofolder` this takes WebM files too, keeps the names of the splits, and fixes the labels
    even if a split lacks a class.

    Args:
        root (`str` or `Path`): The folder.
        class_names (`list[str]`, *optional*): All classes in the order of their labels. Defaults to the names of the
            folders, sorted.

    Returns:
        `DatasetDict`: Per split the columns `video` (`Video(decode=False)`: a path) and `label` (`ClassLabel`).

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
    found = sorted({name for classes in videos.values() for name in classes})
    class_names = found if class_names is None else class_names
    if unknown := sorted(set(found) - set(class_names)):
        raise ValueError(f"{root} has folders that are none of the {len(class_names)} classes: {', '.join(unknown)}.")

    features = Features({"video": Video(decode=False), "label": ClassLabel(names=class_names)})
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "video": [str(path) for paths in classes.values() for path in paths],
                    "label": [class_names.index(name) for name, paths in classes.items() for _ in paths],
                },
                features=features,
            )
            for split, classes in videos.items()
        }
    )


# Hidden files and folders are those of Jupyter, macOS and the like, not videos and classes.
def _list_folders(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."}


def _list_videos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_EXTENSIONS and path.name[0] != ".")


def read_kinetics_labels(num_classes: int) -> list[str]:
    """
    Reads the class names of Kinetics, in the order of the published checkpoints.

    Args:
        num_classes (`int`): 400.

    Returns:
        `list[str]`: One name per class; the position of a name is its label.

    Raises:
        ValueError: If there is no Kinetics of that size.
    """
    if num_classes != 400:
        raise ValueError(f"The labels of Kinetics-400 are known, got num_classes={num_classes}.")
    return resources.files(__package__).joinpath("kinetics_400_labels.txt").read_text(encoding="utf-8").splitlines()
