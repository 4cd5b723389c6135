"""Reads class folders: `ROOT/{split}/{class}/{video}` and `ROOT/{class}/{video}`."""

from dataclasses import dataclass
from pathlib import Path

from .class_names import clean_name, escape_bytes
from .listing import (
    VIDEO_EXTENSIONS,
    Listing,
    PassedOver,
    Row,
    find_videos,
    is_video_name,
    list_folders,
    make_path,
    name_some,
)
from .splits import SPLIT_NAMES, find_split, guess_split


@dataclass
class _Folder:
    """A folder of the collection, and the videos anywhere below it: by the folder in it, `""` for those in none."""

    path: Path
    videos: dict[str, list[Path]]

    @property
    def direct(self) -> list[Path]:
        return self.videos[""]

    @property
    def has_class_folders(self) -> bool:
        return any(videos for name, videos in self.videos.items() if name)


def list_class_folders(root: Path) -> Listing:
    """
    Lists the videos of class folders: the first folder below a split is the class, however deep a video is below it.

    Raises:
        FileNotFoundError: If there are no videos in class folders.
        ValueError: If it is not clear which folders are splits and which are classes.
    """
    passed_over = PassedOver()
    folders = {name: _read_folder(path, passed_over) for name, path in list_folders(root).items()}
    filled = {name: folder for name, folder in folders.items() if any(folder.videos.values())}
    if not filled:
        raise FileNotFoundError(_say_what_is_missing(root, passed_over))
    splits = {name: folder for name, folder in filled.items() if find_split(name)}
    notes = _note_direct(root)
    if any(folder.has_class_folders for folder in splits.values()):
        classes = _find_classes_in_splits(root, folders, notes)
    else:
        _check_flat(root, filled, splits, notes)
        classes = {"train": {name: sorted(sum(folder.videos.values(), [])) for name, folder in folders.items()}}
        _note_nested(root, [folder for folder in filled.values() if folder.has_class_folders], notes)
    _note_spellings(classes, notes)
    rows = {
        split: [_make_row(path, name, root) for name, paths in folders.items() for path in paths]
        for split, folders in classes.items()
    }
    found = sorted({clean_name(name) for folders in classes.values() for name in folders})
    return Listing(root, rows, found, "folders", notes=notes + passed_over.describe(root))


def _read_folder(path: Path, passed_over: PassedOver) -> _Folder:
    videos: dict[str, list[Path]] = {name: [] for name in ("", *list_folders(path))}
    for video in find_videos(path, passed_over):
        parts = video.relative_to(path).parts
        videos[parts[0] if len(parts) > 1 else ""].append(video)
    return _Folder(path, videos)


def _make_row(path: Path, class_name: str, root: Path) -> Row:
    name = escape_bytes(path.relative_to(root).as_posix())
    return Row(make_path(str(path), Path()), clean_name(class_name), name, where=name)


def _say_what_is_missing(root: Path, passed_over: PassedOver) -> str:
    found = _note_direct(root) + passed_over.describe(root)
    return (
        f"{root} holds no videos: expected {root}/CLASS/VIDEO or {root}/SPLIT/CLASS/VIDEO with one of the endings "
        f"{', '.join(VIDEO_EXTENSIONS)}" + (f"; found {' '.join(found)}" if found else ".")
    )


def _note_direct(root: Path) -> list[str]:
    direct = [path for path in sorted(root.iterdir()) if is_video_name(path.name) and not path.is_dir()]
    names = name_some(direct, root=root)
    return [f"{len(direct):,} video(s) directly in {root} are of no class ({names})."] if direct else []


def _find_classes_in_splits(root: Path, folders: dict[str, _Folder], notes: list[str]) -> dict[str, dict[str, list]]:
    """The videos by split and class folder."""
    stray = [path for name, folder in folders.items() if find_split(name) for path in folder.direct]
    if stray:
        raise ValueError(
            f"{root}: {len(stray):,} video(s) of a split are in no class folder, so that their class is not known "
            f"({name_some(stray, root=root)}). Move them to SPLIT/CLASS/VIDEO, or out of {root}."
        )
    classes: dict[str, dict] = {}
    spelt: dict[str, str] = {}
    for name, folder in folders.items():
        split = find_split(name) or escape_bytes(name)
        if find_split(name) is None and not folder.has_class_folders:
            if folder.direct:
                notes.append(f"{folder.path} is no split, and its {len(folder.direct):,} video(s) are left out.")
            continue
        if not any(folder.videos.values()):
            notes.append(f"{folder.path} holds no videos.")
            continue
        if split in classes:
            raise ValueError(f"{root} holds both {spelt[split]}/ and {name}/, which mean the same split. Merge them.")
        spelt[split] = name
        classes[split] = {class_name: videos for class_name, videos in folder.videos.items() if class_name}
        deeper = [
            path for videos in classes[split].values() for path in videos if len(path.relative_to(root).parts) > 3
        ]
        if deeper:
            notes.append(_describe_nested(deeper, root))
    return classes


def _check_flat(root: Path, filled: dict[str, _Folder], splits: dict[str, _Folder], notes: list[str]):
    """Makes sure that the folders are classes, when none is a split with classes in it."""
    if len(splits) == len(filled):
        stray = [path for folder in splits.values() for path in folder.direct]
        raise ValueError(
            f"{', '.join(f'{root}/{name}' for name in splits)}: videos are directly in the folders of splits "
            f"({name_some(stray, root=root)}), so that their classes are not known. Expected "
            f"{root}/SPLIT/CLASS/VIDEO, or a list {root}/SPLIT.csv."
        )
    notes += [f"{root}/{name} is read as a class, as it is beside others, not as a split." for name in splits]
    inner = [path / name for path, folder in ((each.path, each) for each in filled.values())
             for name, videos in folder.videos.items() if videos and find_split(name)]  # fmt: skip
    if inner:
        raise ValueError(
            f"{name_some(inner, root=root.parent)}: these are folders of splits inside of what would be classes. "
            f"Expected ROOT/SPLIT/CLASS/VIDEO: give {inner[0].parent} if that is the collection."
        )
    guesses = {name: guess_split(name) for name in filled}
    if all(guesses.values()) and not any(folder.direct for folder in filled.values()):
        meant = ", ".join(f"{name} ({split}?)" for name, split in guesses.items())
        known = ", ".join(name for names in SPLIT_NAMES.values() for name in names)
        raise ValueError(f"{root} holds {meant}, none of which is the name of a split. Rename them to one of {known}.")


def _note_nested(root: Path, folders: list[_Folder], notes: list[str]):
    nested = [path for folder in folders for name, videos in folder.videos.items() if name for path in videos]
    if nested:
        notes.append(_describe_nested(nested, root))


def _describe_nested(videos: list[Path], root: Path) -> str:
    return (
        f"{len(videos):,} video(s) are in folders inside of class folders ({name_some(videos, root=root)}); "
        "the outer folder is taken for the class."
    )


def _note_spellings(classes: dict[str, dict[str, list]], notes: list[str]):
    """Says where folders differ in how Unicode writes their names; they are one class."""
    spelt: dict[str, set[str]] = {}
    for folders in classes.values():
        for name in folders:
            spelt.setdefault(clean_name(name), set()).add(name)
    notes += [
        f"The folders of {name!r} differ in space around the name, or in how Unicode writes it; they are one class."
        for name, names in spelt.items()
        if len(names) > 1
    ]
