"""What a collection says about its videos, before any of them is opened: what every reader of a layout gives."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from .class_names import escape_bytes


# FFmpeg reads many more; these are the ones in which collections of clips come.
VIDEO_EXTENSIONS = (
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".vob", ".webm", ".wmv",
)  # fmt: skip
# What systems leave in folders of their own: macOS in archives, network storage for its previews.
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")
_NUM_EXAMPLES = 3
_HASH_BLOCK = 2**20


@dataclass(slots=True)
class Row:
    """
    A video as it is listed.

    Args:
        video (`str`): Path, URL or part of a file.
        label (`str`, `int` or `list[str]`): Name of the class, its number, or the names of several.
        name (`str`): What reports call the video, and what its random draws hang on; of a part of a file, as it is
            given here, the name of the file.
        where (`str`): Where it is listed, for messages.
        group (`str`, *optional*): What it must not be separated from when a part of the collection is held out.
        start_sec, end_sec (`float`, *optional*): The part of the file that it is.
        file_id (*optional*): What all names of the file have in common.
        source_name (`str`): The name of the file, which is `name` if it is all of it.
    """

    video: str
    label: str | int | list[str]
    name: str
    where: str
    group: str | None = None
    start_sec: float | None = None
    end_sec: float | None = None
    file_id: Hashable | None = None
    source_name: str = field(init=False)

    def __post_init__(self):
        self.source_name = self.name
        if self.segment != (None, None):
            self.name = name_segment(self.name, *self.segment)

    @property
    def segment(self) -> tuple[float | None, float | None]:
        """From when to when, in seconds; `None` is the start or the end of the file."""
        return self.start_sec, self.end_sec

    @property
    def labels(self) -> list[Any]:
        """The classes, also where there is one: names, or numbers once they are known."""
        return self.label if isinstance(self.label, list) else [self.label]


@dataclass
class Listing:
    """
    A collection as it is listed.

    Args:
        root (`Path`): The folder.
        rows (`dict[str, list[Row]]`): The videos of each split.
        found (`list[str]`, *optional*): The classes in the order of their labels, where the layout tells: names that
            are listed without a video are classes, too.
        subject (`str`): What names the classes, for messages: folders or labels.
        columns (`list[str]`): Of csv files.
        missing (`dict[str, list[str]]`): Of each split, the names of the videos that are listed but not on disk.
        bad (`dict[str, dict[str, str]]`): Of each split, what is known to be no good, with the reason.
        notes (`list[str]`): What is odd and yet no error.
        num_shards (`int`): Number of tar files that hold the videos.
    """

    root: Path
    rows: dict[str, list[Row]]
    found: list[str] | None
    subject: str
    columns: list[str] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)
    bad: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    notes: list[str] = field(default_factory=list)
    num_shards: int = 0


def name_segment(name: str, start_sec: float | None, end_sec: float | None) -> str:
    """The name of a part of a video, as addresses have it (W3C Media Fragments): `match.mp4#t=61.5,64`."""
    start, end = (
        "" if seconds is None else f"{seconds:.3f}".rstrip("0").rstrip(".") for seconds in (start_sec, end_sec)
    )
    return f"{name}#t={start}{',' if end else ''}{end}"


class PassedOver:
    """Counts the files of a collection that are no videos, and says which they are."""

    def __init__(self):
        self._examples: dict[str, list[Path]] = defaultdict(list)
        self._counts: Counter[str] = Counter()

    def add(self, path: Path, kind: str):
        """Notes a file or folder, by what it is."""
        self._counts[kind] += 1
        if len(self._examples[kind]) < _NUM_EXAMPLES:
            self._examples[kind].append(path)

    def describe(self, root: Path) -> list[str]:
        """A sentence, if there is anything to say."""
        if not self._counts:
            return []
        kinds = [
            f"{count:,} {kind} ({name_some(self._examples[kind], count, root)})"
            for kind, count in self._counts.most_common()
        ]
        return [f"{sum(self._counts.values()):,} file(s) that are no videos are passed over: {'; '.join(kinds)}."]


def name_some(names: Iterable[str | Path], count: int | None = None, root: Path | None = None) -> str:
    """The first few of some names or paths, and how many more there are."""
    names = list(names)
    count = len(names) if count is None else count
    if root is not None:
        names = [os.path.relpath(name, root) for name in names[:_NUM_EXAMPLES]]
    shown = ", ".join(escape_bytes(str(name)) for name in names[:_NUM_EXAMPLES])
    return f"{shown}, and {count - _NUM_EXAMPLES:,} more" if count > _NUM_EXAMPLES else shown


def is_video_name(name: str) -> bool:
    """Whether a file is a video by its ending."""
    return name[:1] != "." and os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS


def list_folders(folder: Path) -> dict[str, Path]:
    """The folders in a folder, but for those of Jupyter, macOS and the like."""
    names = sorted(entry.name for entry in os.scandir(folder) if _is_folder(entry))
    return {name: folder / name for name in names if not _is_hidden(name)}


def find_videos(folder: Path, passed_over: PassedOver, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """
    The videos anywhere below a folder, by their endings, in the order of their names.

    Links are followed, and one that leads nowhere is a video that is missing.

    Args:
        folder (`Path`): The folder.
        passed_over (`PassedOver`): Notes what is no video.
        above (`tuple[str, ...]`, *optional*): Folders that lead here, so that links cannot go round in circles.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if _is_hidden(entry.name):
            passed_over.add(path, "hidden")
        elif _is_folder(entry):
            yield from find_videos(path, passed_over, (*above, real))
        elif is_video_name(entry.name):
            yield path
        else:
            passed_over.add(path, path.suffix.lower() or "without an ending")


def make_path(text: str, folder: Path) -> str:
    """
    The path or URL of a video, of what a list writes: a path relative to a folder, absolute or with `~`, or a URL.

    `file://` URLs become paths, and paths that are not UTF-8 such URLs, as tables hold nothing else.
    """
    if text.startswith(("http://", "https://")):
        return text
    path = find_file(text) if text.startswith("file://") else os.path.join(folder, os.path.expanduser(text))
    return path if escape_bytes(path) == path else Path(os.path.abspath(path)).as_uri()


def find_file(video: str) -> str | None:
    """The file that a `Row.video` is, or is a part of; `None` for a URL."""
    if video.startswith(("http://", "https://")):
        return None
    if video.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(video.removeprefix("file://").removeprefix("localhost")))
    return video.partition(",,:")[2] if video.startswith("subfile,") else video


def find_part(video: str) -> tuple[int, int] | None:
    """Where a `Row.video` that is a part of a file begins and ends in it, in bytes; `None` for a whole file."""
    match = re.match(r"subfile,,start,(\d+),end,(\d+),,:", video)
    return None if match is None else (int(match[1]), int(match[2]))


def hash_video(video: str) -> str:
    """SHA-256 of the content of a `Row.video`, in hexadecimal digits; empty for a URL."""
    file = find_file(video)
    if file is None:
        return ""
    status = os.stat(file)
    return _hash_file(video, file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)  # of the segments of a file each asks
def _hash_file(video: str, file: str, num_bytes: int, modified_ns: int) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        begin, end = find_part(video) or (0, num_bytes)
        content.seek(begin)
        while block := content.read(min(_HASH_BLOCK, end - content.tell())):
            digest.update(block)
    return digest.hexdigest()


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_hidden(name: str) -> bool:
    return name[0] == "." or name in _SYSTEM_FOLDERS
