"""Reads lists of videos: csv files of one's own, PySlowFast's and AVA's, and those of Kinetics as it is downloaded."""

import csv
import functools
import io
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..video_decoding_vtn import VideoSource
from .class_names import clean_name, escape_bytes, name_by_numbers, read_text
from .listing import Listing, PassedOver, Row, find_file, find_videos, make_path, name_some
from .rows import find_source
from .segments import VideoSegment
from .splits import find_split


# How lists call the part of a video.
_SEGMENT_COLUMNS = (("start_sec", "start"), ("end_sec", "end"))


@dataclass
class _Table:
    """A csv file: what kind of list it is, its rows, and the columns of its header."""

    kind: str
    rows: list[Row]
    columns: list[str]


def list_csv(root: Path, group_column: str | None = None) -> Listing:
    """
    Lists the videos of `ROOT/{split}.csv`, of any of these kinds:

    - one's own, with a header that names the columns `video` (a path or URL) and `label` (the name of the class), or
      `labels` (any number of names, separated by semicolons) where a video may show several; `start_sec` and
      `end_sec`, or `start` and `end`, say which part of the file is meant, in seconds, where they are not empty;
    - as those of AVA, without a header: a video, start and end in seconds, and the name or number of the class;
    - PySlowFast's, without a header: a path, which may hold spaces, then a space, comma or tab, and the number of the
      class.

    Paths are absolute, or relative to `ROOT`. Fields are separated by commas, tabs or semicolons. A video of which a
    part is meant may be called by its file's name without the ending, too, wherever below `ROOT` the file is.

    Args:
        root (`Path`): The folder.
        group_column (`str`, *optional*): The column that becomes `Row.group`, where there is one of that name.

    Raises:
        ValueError: If a line cannot be understood, or the files are of different kinds.
    """
    tables, notes, find = {}, [], VideoFinder(root)
    spelt: dict[str, str] = {}
    for file in sorted(root.glob("*.csv")):
        split = find_split(file.stem) or escape_bytes(file.stem)
        if find_split(file.stem) is None and not _is_list(file):
            notes.append(f"{file} is no list of videos, and passed over.")
            continue
        if split in tables:
            raise ValueError(f"{root} holds both {spelt[split]} and {file.name}, which mean one split. Merge them.")
        tables[split], spelt[split] = _read_csv(file, group_column, find), file.name
    kinds = {split: table.kind for split, table in tables.items()}
    if len(set(kinds.values())) > 1:
        raise ValueError(f"The csv files of {root} are of different kinds: {kinds}.")
    rows = {split: table.rows for split, table in tables.items()}
    labels = {label for split in rows.values() for row in split for label in row.labels}
    has_numbers = set(kinds.values()) == {"path label"}
    found = name_by_numbers(labels, str(root)) if has_numbers else sorted(labels)
    columns = sorted({column for table in tables.values() for column in table.columns})
    return Listing(root, rows, found, "labels", columns=columns, notes=notes)


def has_lists(root: Path) -> bool:
    """Whether some csv files of a folder are lists of videos, or called like a split."""
    return any(find_split(file.stem) or _is_list(file) for file in root.glob("*.csv"))


def list_cvdfoundation(root: Path, group_column: str | None = None) -> Listing:
    """
    Lists Kinetics as cvdfoundation's downloader and extractor leave it: `ROOT/annotations/{split}.csv`, the videos
    `{youtube id}_{start:06d}_{end:06d}.mp4` anywhere below `ROOT/{split}`, and replacements for damaged ones anywhere
    below `ROOT/replacement`, which are preferred.

    A split without labels (the test set of Kinetics-600 and 700) is left out.

    Args:
        root (`Path`): The folder, such as `k400`.
        group_column (`str`, *optional*): The column that becomes `Row.group`, where there is one of that name.

    Raises:
        ValueError: If a line cannot be understood, or there are no labels.
    """
    replacements, passed_over = _index_videos(root / "replacement", PassedOver()), PassedOver()
    rows, notes, columns = {}, [], set()
    for file in sorted((root / "annotations").glob("*.csv")):
        table = _open_table(file)
        if "label" not in table.columns:
            notes.append(f"{file} has no column label, only {', '.join(table.columns)}, and is left out.")
            continue
        columns |= {*table.columns}
        split = find_split(file.stem) or file.stem
        files = _index_videos(root / file.stem, passed_over)
        rows[split] = list(_read_annotations(root, file, table, files | replacements, group_column))
        listed = {Path(row.video).stem for row in rows[split]}
        if unlisted := [path for name, path in files.items() if name not in listed]:
            notes.append(f"{file} does not list {len(unlisted):,} of the videos ({name_some(unlisted, root=root)}).")
    if not rows:
        raise ValueError(f"{root} has no annotations/SPLIT.csv with a column `label`. {' '.join(notes)}")
    found = sorted({label for split in rows.values() for row in split for label in row.labels})
    notes += passed_over.describe(root)
    return Listing(root, rows, found, "labels", columns=sorted(columns), notes=notes)


def has_annotations(root: Path) -> bool:
    """Whether a folder holds Kinetics as it is downloaded."""
    files = (root / "annotations").glob("*.csv")
    return any("youtube_id" in file.read_bytes()[:1000].decode(errors="replace").lower() for file in files)


class VideoFinder:
    """
    Finds the videos of a folder that a list calls by something less than their paths.

    Args:
        root (`Path`): The folder.
    """

    def __init__(self, root: Path):
        self._root = root

    def __call__(self, name: str) -> str:
        """Path or URL of a video: at this path; else with this name, or `v_` and it, before the ending."""
        path = make_path(name, self._root)
        file = find_file(path)
        if file is None or os.path.exists(file):
            return path
        found = self._index.get(name) or self._index.get(f"v_{name}") or self._index.get(Path(name).stem)
        return path if found is None else make_path(str(found), self._root)

    @functools.cached_property
    def _index(self) -> dict[str, Path]:
        return _index_videos(self._root, PassedOver())


@dataclass
class _Reader:
    """The rows of a csv file with a header, as dictionaries with the number of the line that they end in."""

    file: Path
    columns: list[str]
    reader: csv.DictReader

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        try:
            for line in self.reader:
                yield self.reader.line_num, line
        except csv.Error as error:
            raise ValueError(f"{self.file}:{self.reader.line_num}: {error}.") from error


def _open_table(file: Path) -> _Reader:
    """Reads the header, whose names count in any case, with whichever separator it has."""
    text = read_text(file)
    first_line = text.split("\n", 1)[0]
    separator = max(",;\t", key=first_line.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    columns = [column.strip().lower() for column in reader.fieldnames or ()]
    for column in ("video", "label", "labels", *itertools.chain(*_SEGMENT_COLUMNS)):
        if columns.count(column) > 1:
            raise ValueError(f"{file}:1: there are several columns {column}: {', '.join(columns)}.")
    reader.fieldnames = columns
    return _Reader(file, columns, reader)


def _is_list(file: Path) -> bool:
    try:
        columns = _open_table(file).columns
    except ValueError:
        return False
    return "video" in columns and ("label" in columns or "labels" in columns)


def _index_videos(folder: Path, passed_over: PassedOver) -> dict[str, Path]:
    """The videos anywhere below a folder, by their names without ending."""
    return {path.stem: path for path in find_videos(folder, passed_over)} if folder.is_dir() else {}


def _read_annotations(
    root: Path, file: Path, table: _Reader, files: dict[str, Path], group_column: str | None
) -> Iterator[Row]:
    for number, line in table:
        try:
            name = f"{line['youtube_id']}_{int(line['time_start']):06d}_{int(line['time_end']):06d}"
            label = clean_name(line["label"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file}:{number}: expected youtube_id, time_start, time_end (whole seconds) and label, got {line}."
            ) from error
        path = files.get(name, root / file.stem / f"{name}.mp4")
        where = f"{file.name}:{number}"
        group = line.get(group_column)
        yield Row(make_path(str(path), root), label, path.relative_to(root).as_posix(), where, group)


def _read_csv(file: Path, group_column: str | None, find: VideoFinder) -> _Table:
    table = _open_table(file)
    if _is_segment(table.columns):
        return _read_segments(file, find)
    kinds = [column for column in ("label", "labels") if column in table.columns]
    if "video" in table.columns and len(kinds) == 2:
        raise ValueError(f"{file}:1: there are both columns, label and labels; leave one of them out.")
    kind = next(iter(kinds), None)
    if "video" in table.columns and kind is not None:
        rows = [_read_line(file, number, line, kind, group_column, find) for number, line in table]
        return _Table(kind, rows, table.columns)
    if "video" in table.columns or kind is not None:
        raise ValueError(f"{file}:1: expected the columns video, and label or labels, got {', '.join(table.columns)}.")
    lines = [(number, line) for number, line in enumerate(read_text(file).split("\n"), 1) if line.strip()]
    return _Table("path label", [_read_path_label(file, number, line) for number, line in lines], [])


def _read_line(file: Path, number: int, line: dict, kind: str, group_column: str | None, find: VideoFinder) -> Row:
    where = f"{file.name}:{number}"
    if None in line:
        raise ValueError(
            f"{file}:{number}: there are more fields than columns, got {[*line.values()]}; a path with commas needs "
            "quotation marks."
        )
    video, text = (line["video"] or "").strip(), line[kind]
    names = [clean_name(name) for name in (text or "").split(";")] if kind == "labels" else [clean_name(text or "")]
    names = list(dict.fromkeys(filter(None, names)))
    if not video or text is None or (kind == "label" and not names):
        raise ValueError(f"{file}:{number}: expected a video and its {kind}, got {line}.")
    group = line.get(group_column)
    label = names if kind == "labels" else names[0]
    start, end = (next(filter(None, (line.get(name) for name in names)), "") for names in _SEGMENT_COLUMNS)
    segment = read_segment(start, end, f"{file}:{number}")
    path = make_path(video, file.parent) if segment == (None, None) else find(video)
    return Row(path, label, escape_bytes(video), where, group, *segment)


def read_sources(file: Path) -> dict[str, VideoSource]:
    """
    The videos of a csv file as [`list_csv`] reads them, with or without labels: what to decode, by their names.

    Raises:
        ValueError: If a line cannot be understood.
    """
    table, find = _open_table(file), VideoFinder(file.parent)
    if _is_segment(table.columns):
        rows = _read_segments(file, find).rows
    elif "video" in table.columns:
        lines = ((number, line | {"labels": ""}) for number, line in table)
        rows = [_read_line(file, number, line, "labels", None, find) for number, line in lines]
    else:
        raise ValueError(f"{file}:1: expected a column video, got {', '.join(table.columns)}.")
    return {row.name: find_source(row.video, row.name, *row.segment) for row in rows}


def read_segment(start: str | float, end: str | float, where: str) -> tuple[float | None, float | None]:
    """
    Start and end of a part of a video, in seconds, to the millisecond; `None` where the text is empty.

    Raises:
        ValueError: If they are none; names `where`.
    """
    try:
        start_sec, end_sec = (round(float(text), 3) if str(text).strip() else None for text in (start, end))
        VideoSegment(where, start_sec, end_sec)
    except (TypeError, ValueError):
        raise ValueError(
            f"{where}: start and end of a segment must be seconds from 0 on, the end behind the start, got {start!r} "
            f"and {end!r}."
        ) from None
    return start_sec, end_sec


def _is_segment(fields: list[str]) -> bool:
    """Whether these are video, start, end and label; of the times, one may be empty."""
    times = [field.strip() for field in fields[1:3]]
    return len(fields) == 4 and any(times) and all(re.fullmatch(r"([+-]?(\d+\.?|\.\d)\d*)?", time) for time in times)


def _read_segments(file: Path, find: VideoFinder) -> _Table:
    text = read_text(file)
    separator = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    lines = [(reader.line_num, fields) for fields in reader if fields]
    for number, fields in lines:
        if len(fields) != 4 or not (fields[0].strip() and fields[3].strip()):
            raise ValueError(f"{file}:{number}: expected a video, start, end and label, got {fields}.")
    has_numbers = all(fields[3].strip().isdecimal() for _, fields in lines)
    rows = []
    for number, (video, start, end, label) in lines:
        segment = read_segment(start, end, f"{file}:{number}")
        video, found = video.strip(), int(label) if has_numbers else clean_name(label)
        rows.append(Row(find(video), found, escape_bytes(video), f"{file.name}:{number}", None, *segment))
    return _Table("path label" if has_numbers else "label", rows, [])


def _read_path_label(file: Path, number: int, line: str) -> Row:
    # Paths may hold spaces: the last separator counts.
    match = re.fullmatch(r"\s*(.*\S)\s*[ ,;\t]\s*(\d+)\s*", line)
    if match is None:
        raise ValueError(
            f"{file}:{number}: expected a path and the number of a class, as PySlowFast has them, or in line 1 a "
            f"header with the columns video and label or labels, got {line!r}."
        )
    path = re.sub(r'^"(.*)"$', r"\1", match[1])
    return Row(make_path(path, file.parent), int(match[2]), escape_bytes(path), f"{file.name}:{number}")
