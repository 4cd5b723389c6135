"""
Whether the files of a collection can be decoded, and which of them are the same: what is known of each, in a table
that others read.
"""

import csv
import io
import os
import stat
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..results import ResultFile, one_run
from ..video_decoding_vtn import DecodeLimits, VideoDecodeError
from .class_names import escape_bytes
from .duplicates import NUM_MOMENTS, Duplicates, choose_moments, find_duplicates, make_fingerprint, shrink
from .file_pool import map_files
from .layouts import list_videos
from .listing import Listing, find_file, hash_video
from .splits import find_split
from .video_frames import iter_video_frames


@dataclass(frozen=True)
class ScannedVideo:
    """
    A row of the table.

    Args:
        path: As it was given.
        label: Name of the folder that holds the file.
        ok: Whether all frames could be decoded.
        reason: Why not; else empty.
        frames, fps, duration_sec: Number of frames, frames per second, seconds; `None` where the file does not tell.
        width, height: Of the upright picture, in pixels.
        rotation: Degrees, anticlockwise, by which frames are turned to be upright.
        num_bytes, modified_ns: Size of the file and when it was written, in nanoseconds since 1970.
        sha256: Of the content.
        final: Whether this is about the file itself, so that another scan would find the same; not so where time or
            memory did not suffice, its process ended, or the file could not be read.
        fingerprint: Of the pictures, by [`vtn_hf.data.duplicates.make_fingerprint`]; of a bad file empty.
    """

    path: str
    label: str
    ok: bool
    reason: str = ""
    frames: int | None = None
    fps: float | None = None
    duration_sec: float | None = None
    width: int | None = None
    height: int | None = None
    rotation: int | None = None
    num_bytes: int = 0
    modified_ns: int = 0
    sha256: str = ""
    final: bool = True
    fingerprint: str = ""


COLUMNS = [field.name for field in fields(ScannedVideo)]


def scan_video(path: str, limits: DecodeLimits | None = None) -> ScannedVideo:
    """
    Decodes a file from its first to its last frame.

    Args:
        path (`str`): A file.
        limits (`DecodeLimits`, *optional*): What it may cost.

    Returns:
        `ScannedVideo`: What is known of it, also if it is bad.
    """
    try:
        # A pipe would be waited for.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return replace(_begin(path), reason="it is no file", final=False)
        video = replace(_begin(path), sha256=hash_video(path))
    except OSError as error:
        return replace(_begin(path), reason=str(error), final=False)
    found: list = []
    size, num_frames, pictures = (0, 0), 0, []

    def take_all(metadata) -> range:
        found[:] = [metadata]
        return range(metadata.total_num_frames)

    start = time.monotonic()
    try:
        for frame in iter_video_frames(path, take_all, limits=limits):
            size = frame.shape[:2]
            # In a short video a frame is several of the moments.
            pictures += [shrink(frame)] * choose_moments(found[0].total_num_frames).count(num_frames)
            num_frames += 1
    except VideoDecodeError as error:
        time_left = limits is None or time.monotonic() - start < (limits.max_decode_sec or float("inf"))
        final = time_left and is_about_content(error)
        return replace(video, reason=str(error).removeprefix(f"{path}: "), final=final)
    except MemoryError:
        return replace(video, reason="its memory does not suffice", final=False)
    metadata = found[0]
    return replace(
        video,
        ok=True,
        frames=num_frames,
        fps=metadata.fps,
        duration_sec=metadata.duration,
        height=size[0],
        width=size[1],
        rotation=_read_rotation(path),
        fingerprint=make_fingerprint(pictures) if len(pictures) == NUM_MOMENTS else "",
    )


def scan_videos(
    paths: Iterable[str],
    table: Path,
    num_workers: int = 1,
    time_limit_sec: float = 300,
    memory_limit_gib: float | None = 4,
) -> Iterator[ScannedVideo]:
    """
    Scans files in several processes and adds them to a table as they are ready.

    What the table knows already is not decoded again: a file of the same path, size and time, or of the same content.
    Where another scan may find something else ([`ScannedVideo`]`.final`), it is tried again.

    Args:
        paths (`Iterable[str]`): Files.
        table (`Path`): CSV file to read and to add to.
        num_workers (`int`, *optional*, defaults to 1): Number of processes.
        time_limit_sec (`float`, *optional*, defaults to 300): Seconds for one file.
        memory_limit_gib (`float`, *optional*, defaults to 4): Memory of a process, where the system can limit it.

    Yields:
        `ScannedVideo`: One for each file.

    Raises:
        ValueError: If `table` is something else.
        BlockingIOError: If another process is at it.
    """
    with one_run(table):
        known = read_scan(table) if table.exists() else {}
        by_content = {video.sha256: video for video in known.values() if video.final and video.sha256}
        to_scan = []
        for path in paths:
            video, now = known.get(path), _begin(path)
            if video is not None and video.final and _is_same_file(video, now):
                yield video
            else:
                to_scan.append(path)
        limits = DecodeLimits(max_decode_sec=time_limit_sec)
        scan = partial(_scan_if_new, by_content=by_content, limits=limits)
        with ResultFile(table, COLUMNS) as file:
            # The limit of the processes is for what hangs.
            results = map_files(scan, to_scan, num_workers, time_limit_sec + 10, memory_limit_gib)
            for path, result in results:
                if isinstance(result, Exception):
                    result = replace(_begin(path), reason=str(result) or repr(result), final=False)
                file.append(asdict(result))
                yield result


def read_scan(table: str | Path) -> dict[str, ScannedVideo]:
    """
    Reads a table that [`scan_videos`] wrote.

    Args:
        table (`str` or `Path`): The CSV file.

    Returns:
        `dict[str, ScannedVideo]`: By path; of a file that was scanned again, the last row.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    text = Path(table).read_bytes().decode(errors="surrogateescape")
    # The last row of a scan that was stopped may be unfinished.
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    if text and rows.fieldnames != COLUMNS:
        raise ValueError(f"{table} is no table of this version of vtn scan; it begins with {text[:60]!r}.")
    return {row["path"]: _parse(row) for row in rows if None not in row.values()}


def drop_bad_videos(listing: Listing, table: str | Path):
    """
    Takes the videos that cannot be decoded by a table out of a collection, and lists them as bad.

    Args:
        listing (`Listing`): The collection.
        table (`str` or `Path`): The CSV file of a scan of it.

    Raises:
        ValueError: If the table does not know a video.
    """
    scanned = {os.path.realpath(path): video for path, video in read_scan(table).items()}
    for split, rows in listing.rows.items():
        kept = []
        for row in rows:
            file = None if row.video.startswith("subfile,") else find_file(row.video)
            if file is None:
                raise ValueError(f"{table} is about files, but {row.where} is none; leave the table out.")
            video = scanned.get(os.path.realpath(file))
            if video is None:
                raise ValueError(f"{table} does not know {row.where}; scan the collection again.")
            if not _is_same_file(video, _begin(file)):
                raise ValueError(f"{row.where} has changed since {table} was made; scan the collection again.")
            if video.ok:
                kept.append(row)
            else:
                listing.bad[split][row.name] = video.reason
        listing.rows[split] = kept


def describe_coverage(videos: Iterable[ScannedVideo]) -> str:
    """Says how many videos are left, which are bad and why, and which labels lose most."""
    videos = list(videos)
    bad = [video for video in videos if not video.ok]
    lines = [f"{len(videos) - len(bad)} of {len(videos)} videos are good ({1 - len(bad) / max(1, len(videos)):.2%})."]
    for video in bad:
        again = "" if video.final else " (another scan tries it again)"
        lines.append(f"  bad: {video.path}: {video.reason}{again}")
    num_bad = Counter(video.label for video in bad)
    total = Counter(video.label for video in videos)
    lines += [
        f"  {label}: {total[label] - count} of {total[label]} left"
        for label, count in sorted(num_bad.items(), key=lambda item: -item[1] / total[item[0]])
    ]
    return escape_bytes("\n".join(lines))


def find_places(root: Path, videos: Iterable[ScannedVideo]) -> tuple[dict[str, str], list[str]]:
    """
    Where videos of a collection belong: of each path the split, and all the classes, by its lists or its folders.
    """
    try:
        listing = list_videos(root).rows
    except (ValueError, OSError):  # it has no layout, but videos
        listing = {}
    rows = defaultdict(list)
    for split, listed in listing.items():
        for row in listed:
            rows[os.path.realpath(find_file(row.video) or row.video)].append((split, row))
    splits, labels = {}, []
    for video in videos:
        folders = Path(os.path.relpath(video.path, root)).parts[:-1]
        found = rows.get(os.path.realpath(video.path), [])
        splits[video.path] = found[0][0] if found else (folders and find_split(folders[0])) or ""
        labels += [str(label) for _, row in found for label in row.labels] or [video.label]
    return splits, labels


def describe_duplicates(videos: Iterable[ScannedVideo], splits: dict[str, str]) -> str:
    """
    Says which files are the same video, those of several splits first.

    Args:
        videos (`Iterable[ScannedVideo]`): What was scanned.
        splits (`dict[str, str]`): Of each path, the split.
    """
    groups = find_scanned_duplicates(videos)
    by_splits = {id(group): sorted({splits.get(path, "") for path in group.paths}) for group in groups}
    across = [group for group in groups if len(by_splits[id(group)]) > 1]
    lines = [f"{len(groups):,} video(s) are there more than once, {len(across):,} of them in several splits."]
    for group in across + [group for group in groups if group not in across]:
        where = " and ".join(filter(None, by_splits[id(group)])) or "here"
        what = "content" if group.is_same_content else "pictures"
        lines.append(f"  same {what} in {where}: {', '.join(group.paths)}")
    return escape_bytes("\n".join(lines))


def find_scanned_duplicates(videos: Iterable[ScannedVideo]) -> list[Duplicates]:
    """[`find_duplicates`] of what was scanned."""
    videos = list(videos)
    columns = ([getattr(video, name) for video in videos] for name in ("path", "sha256", "fingerprint"))
    return find_duplicates(*columns)


def describe_classes(labels: Iterable[str]) -> str:
    """Says how many videos each class has, the largest first."""
    counts = Counter(labels)
    most, least = max(counts.values(), default=0), min(counts.values(), default=0)
    lines = [f"{len(counts):,} classes, of {least:,} to {most:,} videos:"]
    lines += [
        f"  {label}: {number:,}" for label, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return escape_bytes("\n".join(lines))


def _begin(path: str) -> ScannedVideo:
    """What is known of a file that is not scanned yet."""
    video = ScannedVideo(path, Path(path).parent.name, ok=False)
    try:
        status = os.stat(path)
    except OSError:  # it is gone, or a link that leads nowhere
        return video
    return replace(video, num_bytes=status.st_size, modified_ns=status.st_mtime_ns)


def is_about_content(error: VideoDecodeError) -> bool:
    """Whether the content of a video is to blame, rather than the system; then another try would find the same."""
    cause = error.__cause__
    return not isinstance(cause, MemoryError) and (isinstance(cause, av.FFmpegError) or not isinstance(cause, OSError))


def _is_same_file(video: ScannedVideo, now: ScannedVideo) -> bool:
    return (video.num_bytes, video.modified_ns) == (now.num_bytes, now.modified_ns)


def _scan_if_new(path: str, by_content: dict[str, ScannedVideo], limits: DecodeLimits) -> ScannedVideo:
    now = _begin(path)
    same = by_content.get(hash_video(path)) if os.path.isfile(path) else None
    if same is None:
        return scan_video(path, limits)
    return replace(same, path=path, label=now.label, num_bytes=now.num_bytes, modified_ns=now.modified_ns)


def _parse(row: dict[str, str]) -> ScannedVideo:
    texts, rates, truths = (
        ("path", "label", "reason", "sha256", "fingerprint"),
        ("fps", "duration_sec"),
        ("ok", "final"),
    )
    values: dict[str, Any] = {}
    for name, text in row.items():
        if name in texts:
            values[name] = text
        elif name in truths:
            values[name] = text == "True"
        else:
            values[name] = None if text == "" else float(text) if name in rates else int(text)
    return ScannedVideo(**values)


def _read_rotation(path: str) -> int:
    with (
        open(path, "rb") as file,
        av.open(file, "r", metadata_errors="replace", options={"protocol_whitelist": "none"}) as video,
    ):
        frame: Any = next(video.decode(video.streams.best("video")))
        return int(np.round(frame.rotation)) % 360
