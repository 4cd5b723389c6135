"""Reads WebDataset shards: tar files whose tables of contents say at which place each video is."""

import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .class_names import clean_name, escape_bytes
from .listing import Listing, Row, is_video_name
from .splits import find_split, find_split_in


_COMPRESSED_ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_COMPRESSED_BEGINNINGS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_LABEL_FIELDS = ("cls", "txt", "json")
_MAX_LABEL_BYTES = 2**20


def find_shards(root: Path) -> list[Path]:
    """The tar files in a folder and in the folders in it; also those that are compressed, which cannot be read."""
    paths = sorted([*root.glob("*"), *root.glob("*/*")])
    return [path for path in paths if path.name[0] != "." and path.name.endswith((".tar", *_COMPRESSED_ENDINGS))]


def list_shards(root: Path) -> Listing:
    """
    Lists the videos of WebDataset shards, `ROOT/{split}*.tar` (such as `train-000.tar`) or `ROOT/{split}/*.tar`.

    A sample is a video (`KEY.mp4`, `KEY.webm`, …) and its class: `KEY.cls` (the number), `KEY.txt` (the name) or
    `KEY.json` (an object with `label`, either). Its row says at which place of its shard the video is. What is damaged
    is listed as bad, by shard and key, and the rest is read.

    Raises:
        ValueError: If no sample has a video and a label.
    """
    listing = Listing(root, {}, None, "labels")
    shards = find_shards(root)
    fields: set[str] = set()
    for path in shards:
        split = _name_split(path, root)
        rows, bad = listing.rows.setdefault(split, []), listing.bad[split]
        shard = escape_bytes(path.relative_to(root).as_posix())
        samples: dict[str, dict] = {}
        try:
            for key, field, value in _read_shard(path, listing.notes):
                samples.setdefault(key, {})[field] = value
        except ValueError as error:
            bad[shard] = str(error)
        for key, sample in samples.items():
            fields |= sample.keys()
            where = f"{shard}: {key}"
            try:
                rows.append(Row(*_read_sample(sample), key, where))
            except ValueError as error:
                bad[where] = str(error)
    if not any(listing.rows.values()):
        damage = "".join(f" {name}: {why}." for bad in listing.bad.values() for name, why in [*bad.items()][:3])
        raise ValueError(f"{shards[0]} holds no videos, or no labels (cls, txt, json): {sorted(fields)}.{damage}")
    listing.num_shards = len(shards)
    return listing


def _name_split(path: Path, root: Path) -> str:
    if path.parent != root:
        return find_split(path.parent.name) or escape_bytes(path.parent.name)
    name = escape_bytes(path.name).partition(".")[0]
    return find_split_in(name) or re.match(r"[^\W\d_]*", name)[0] or "train"


def _read_shard(path: Path, notes: list[str]) -> Iterator[tuple[str, str, str | bytes]]:
    """Key, field and value of each file in a shard; of a video, the value is its place, of a label its content."""
    for shard, member in _read_members(path, notes):
        folder, slash, name = escape_bytes(member.name).rpartition("/")
        stem, _, field = name.partition(".")
        key, field = folder + slash + stem, field.lower()
        if not stem:
            continue  # a hidden file, as macOS leaves them
        if is_video_name(f"video.{field}"):
            file = os.fspath(path)
            if escape_bytes(file) != file:
                raise ValueError("has a name that is not UTF-8; rename it")
            yield key, field, f"subfile,,start,{member.offset_data},end,{member.offset_data + member.size},,:{file}"
        elif field in _LABEL_FIELDS:
            yield key, field, shard.extractfile(member).read(_MAX_LABEL_BYTES)
        else:
            yield key, field, b""


def _read_members(path: Path, notes: list[str]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """
    The files in a tar file, those before a damage included.

    Raises:
        ValueError: With the damage.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            if file.read(8).startswith(_COMPRESSED_BEGINNINGS):
                raise ValueError(
                    "is compressed, so that videos cannot be read out of the middle; unpack it to plain tar"
                )
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.offset_data + member.size > size:
                    raise ValueError(f"is cut off in the middle of {escape_bytes(member.name)}")
                if member.isfile():
                    yield shard, member
            if not shard.getmembers():
                raise ValueError("holds no files")
            end = shard.offset
        with open(path, "rb") as file:
            file.seek(end)
            if any(file.read(tarfile.BLOCKSIZE)):
                raise ValueError(f"is damaged at byte {end:,}; the samples behind are lost")
            if any(file.read(tarfile.RECORDSIZE)):
                raise ValueError(f"goes on behind its end at byte {end:,}, as joined files do; what follows is lost")
        if end >= size:
            notes.append(
                f"{path} lacks the mark at the end of tar files; it may have been cut off between two samples."
            )
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"cannot be read: {error}") from error


def _read_sample(sample: dict[str, Any]) -> tuple[str, str | int]:
    """
    Place and class of a video.

    Raises:
        ValueError: If one of them is missing, or the class cannot be understood.
    """
    video = next((value for field, value in sample.items() if is_video_name(f"video.{field}")), None)
    field = next((field for field in _LABEL_FIELDS if field in sample), None)
    if video is None:
        raise ValueError(f"has no video among {', '.join(sorted(sample))}")
    if field is None:
        raise ValueError(f"has no label (cls, txt or json) among {', '.join(sorted(sample))}")
    content = sample[field]
    try:
        label = json.loads(content)["label"] if field == "json" else content.decode("utf-8-sig").strip()
        label = int(label) if field == "cls" else label
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"has a {field} that is no label: {content[:100]!r}") from error
    if isinstance(label, bool) or not isinstance(label, (int, str)):
        raise ValueError(f"has the label {label!r}, which is neither the number nor the name of a class")
    return video, clean_name(label) if isinstance(label, str) else label
