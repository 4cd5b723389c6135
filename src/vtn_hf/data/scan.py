"""Whether the files of a collection can be decoded: what is known of each, in a table that others read."""

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..video_decoding_vtn import DecodeLimits, VideoDecodeError, iter_video_frames
from .file_pool import map_files
from .listing import Listing, find_file


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


def scan_video(path: str, limits: DecodeLimits | None = None) -> ScannedVideo:
    """
    Decodes a file from its first to its last frame.

    Args:
        path (`str`): A file.
        limits (`DecodeLimits`, *optional*): What it may cost.

    Returns:
        `ScannedVideo`: What is known of it, also if it is bad.
    """
    status = os.stat(path)
    video = ScannedVideo(
        path=path,
        label=Path(path).parent.name,
        ok=False,
        num_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
        sha256=hash_file(path),
    )
    found = []

    def take_all(metadata) -> range:
        found[:] = [metadata]
        return range(metadata.total_num_frames)

    try:
        size = None
        num_frames = 0
        for frame in iter_video_frames(path, take_all, limits=limits):
            size = frame.shape
            num_frames += 1
    except VideoDecodeError as error:
        return replace(video, reason=str(error).removeprefix(f"{path}: "))
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
    )


def hash_file(path: str) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def scan_videos(
    paths: Iterable[str], table: Path, num_workers: int = 1, time_limit_sec: float = 300
) -> Iterator[ScannedVideo]:
    """
    Scans files in several processes and adds them to a table as they are ready.

    What the table knows already is not decoded again: a file of the same path, size and time, or of the same content.

    Args:
        paths (`Iterable[str]`): Files.
        table (`Path`): CSV file to read and to add to.
        num_workers (`int`, *optional*, defaults to 1): Number of processes.
        time_limit_sec (`float`, *optional*, defaults to 300): Seconds for one file.

    Yields:
        `ScannedVideo`: One for each file.
    """
    known = read_scan(table) if table.exists() else {}
    by_content = {video.sha256: video for video in known.values()}
    to_scan = []
    for path in paths:
        status = os.stat(path)
        video = known.get(path)
        if video is not None and (video.num_bytes, video.modified_ns) == (status.st_size, status.st_mtime_ns):
            yield video
        else:
            to_scan.append(path)
    limits = DecodeLimits(max_decode_sec=time_limit_sec)
    scan = partial(_scan_if_new, by_content=by_content, limits=limits)
    with _open_table(table) as file:
        writer = csv.DictWriter(file, [field.name for field in fields(ScannedVideo)])
        if file.tell() == 0:
            writer.writeheader()
        # The limit of the processes is for what hangs.
        for path, result in map_files(scan, to_scan, num_workers, time_limit_sec + 10):
            if isinstance(result, Exception):
                status = os.stat(path)
                result = ScannedVideo(
                    path, Path(path).parent.name, False, str(result), num_bytes=status.st_size,
                    modified_ns=status.st_mtime_ns,
                )  # fmt: skip
            writer.writerow(asdict(result))
            file.flush()
            yield result


def read_scan(table: str | Path) -> dict[str, ScannedVideo]:
    """
    Reads a table that [`scan_videos`] wrote.

    Args:
        table (`str` or `Path`): The CSV file.

    Returns:
        `dict[str, ScannedVideo]`: By path; of a file that was scanned again, the last row.
    """
    text = Path(table).read_bytes().decode()
    # The last row of a scan that was stopped may be unfinished.
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    return {row["path"]: _parse(row) for row in rows}


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
    lines += [f"  bad: {video.path}: {video.reason}" for video in bad]
    num_bad = Counter(video.label for video in bad)
    total = Counter(video.label for video in videos)
    lines += [
        f"  {label}: {total[label] - count} of {total[label]} left"
        for label, count in sorted(num_bad.items(), key=lambda item: -item[1] / total[item[0]])
    ]
    return "\n".join(lines)


def _scan_if_new(path: str, by_content: dict[str, ScannedVideo], limits: DecodeLimits) -> ScannedVideo:
    same = by_content.get(hash_file(path))
    if same is None or not same.sha256:
        return scan_video(path, limits)
    status = os.stat(path)
    return replace(
        same,
        path=path,
        label=Path(path).parent.name,
        num_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
    )


def _open_table(table: Path):
    """Open the table to add rows; a row that a stopped run left unfinished is removed."""
    table.parent.mkdir(parents=True, exist_ok=True)
    if table.exists():
        content = table.read_bytes()
        table.write_bytes(content[: content.rfind(b"\n") + 1])
    return open(table, "a", newline="", encoding="utf-8")


def _parse(row: dict[str, str]) -> ScannedVideo:
    texts = ("path", "label", "reason", "sha256")
    rates = ("fps", "duration_sec")
    values = {}
    for name, text in row.items():
        if name in texts:
            values[name] = text
        elif name == "ok":
            values[name] = text == "True"
        else:
            values[name] = None if text == "" else float(text) if name in rates else int(text)
    return ScannedVideo(**values)


def _read_rotation(path: str) -> int:
    import av

    with av.open(path, metadata_errors="replace") as container:
        stream = container.streams.best("video")
        frame = next(container.decode(stream))
        return int(np.round(frame.rotation)) % 360
