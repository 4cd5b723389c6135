"""Which features of a collection are there already, and which are to be computed."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, repeat
from pathlib import Path

from .collection import Collection
from .feature_cache import CachedVideo, CacheIndex, read_shard
from .listing import find_file, find_part, hash_video, name_some


@dataclass(frozen=True)
class Wanted:
    """A video as it is now, and how many clips of it there shall be."""

    video: CachedVideo
    num_clips: int

    @property
    def key(self) -> str:
        """What calls the video the same, wherever the collection is."""
        return make_key(self.video)


def make_key(video: CachedVideo) -> str:
    """The name of a video, or of one in a tar file its place there too: names may come again in other files."""
    part = find_part(video.path)
    return video.name if part is None else f"{Path(find_file(video.path)).name} {part[0]} {video.name}"


class ExtractionPlan:
    """
    What is to be done so that a cache has the features of a collection.

    A video is known by its name. Its features are kept if its file has the size and time of then; or the size and the
    content, which is only read where the time is another one. What could not be read is tried again if that may help.

    Args:
        root (`Path`): The cache.
        collection (`Collection`): The videos.
        num_views (`int`): Clips of each training video; of the others there is one.

    Attributes:
        to_do (`dict[str, list[Wanted]]`): What is to be computed, by split.
        notes (`list[str]`): What is kept, new, changed and gone, in words.
    """

    def __init__(self, root: Path, collection: Collection, num_views: int):
        self.root = root
        self.collection = collection
        self.notes: list[str] = []
        self._wanted = {
            split: [Wanted(video, num_views if split == "train" else 1) for video in _list_videos(rows)]
            for split, rows in collection.videos.items()
        }
        stored = self._find_stored()
        self.to_do = {}
        for split, videos in self._wanted.items():
            self.to_do[split] = [each for each in videos if _find_match(each, stored[each.key]) is None]
            changed = [each.video.name for each in self.to_do[split] if _is_changed(each, stored[each.key])]
            note = f"{split}: {len(videos) - len(self.to_do[split]):,} of {len(videos):,} videos are done already."
            note += f" {len(changed):,} have changed since: {name_some(changed)}." if changed else ""
            self.notes.append(note)
        keys = {each.key for videos in self._wanted.values() for each in videos}
        if gone := sorted(key for key, videos in stored.items() if videos and key not in keys):
            self.notes.append(f"{len(gone):,} videos have left the collection, and are dropped: {name_some(gone)}.")

    def list_shards(self, split: str, videos_per_shard: int) -> list[tuple[Path, list[Wanted]]]:
        """The shards to write, and the videos of each."""
        to_do = self.to_do[split]
        paths = (self.root / split / f"shard-{number:05d}.safetensors" for number in count())
        free = (path for path in paths if not path.exists())
        return [
            (next(free), to_do[first : first + videos_per_shard]) for first in range(0, len(to_do), videos_per_shard)
        ]

    def finish(self) -> CacheIndex:
        """
        Makes the cache one of the videos of the collection, when all are computed, and deletes what it needs no more.

        Raises:
            ValueError: If some are not.
        """
        stored = self._find_stored()
        splits = {}
        for split, videos in self._wanted.items():
            found = [_find_match(each, stored[each.key], or_any_error=True) for each in videos]
            if lost := [each.video.name for each, video in zip(videos, found, strict=True) if video is None]:
                raise ValueError(f"{self.root}: the features of {name_some(lost)} are not there; extract them again.")
            splits[split] = [_update(video, each) for each, video in zip(videos, found, strict=True)]
        missing, bad = self.collection.missing, self.collection.bad
        index = CacheIndex(self.collection.class_names, splits, missing, bad)
        index.save(self.root)
        needed = {video.shard for videos in splits.values() for video in videos if not video.error}
        for path in _list_shards(self.root):
            if f"{path.parent.name}/{path.name}" not in needed:
                path.unlink()
        return index

    def _find_stored(self) -> defaultdict[str, list[CachedVideo]]:
        """What the cache has of each video, features before errors."""
        videos = []
        with contextlib.suppress(ValueError):  # not finished once
            # First, as it knows the times of files that were copied since.
            videos += [video for split in CacheIndex.load(self.root).splits.values() for video in split]
        for path in _list_shards(self.root):
            try:
                videos += read_shard(path)
            except ValueError as error:
                self.notes.append(f"{error}; its videos are computed again.")
        stored = defaultdict(list)
        for video in sorted(videos, key=lambda video: bool(video.error)):
            if video.error or (self.root / video.shard).is_file():
                stored[make_key(video)].append(video)
        return stored


def clear_cache(root: Path):
    """Deletes a cache, and nothing else in its folder."""
    for path in [*_list_shards(root), root / "videos.json", root / "feature_cache.json"]:
        path.unlink(missing_ok=True)


def _list_shards(root: Path) -> list[Path]:
    return sorted(root.glob("*/shard-*.safetensors"))


def _list_videos(rows) -> Iterator[CachedVideo]:
    """The rows of a split, with the sizes and times of the files."""
    starts, ends = (
        rows[column] if column in rows.column_names else repeat(None) for column in ("start_sec", "end_sec")
    )
    for video, label, name, start, end in zip(rows["video"], rows["label"], rows["name"], starts, ends, strict=False):
        found = CachedVideo(video["path"], label, name, start_sec=start, end_sec=end)
        try:
            status = os.stat(find_file(found.path) or "")
        except (OSError, ValueError):  # it has just gone, or is a URL
            yield found
            continue
        begin, end = find_part(found.path) or (0, status.st_size)
        yield replace(found, num_bytes=end - begin, modified_ns=status.st_mtime_ns)


def _find_match(wanted: Wanted, stored: list[CachedVideo], or_any_error: bool = False) -> CachedVideo | None:
    for video in stored:
        is_enough = video.num_clips >= wanted.num_clips or (video.error and (video.final or or_any_error))
        if is_enough and _is_same(wanted.video, video):
            return video
    return None


def _is_same(now: CachedVideo, then: CachedVideo) -> bool:
    if now.num_bytes != then.num_bytes:
        return False
    if now.modified_ns == then.modified_ns or not then.sha256:
        return now.modified_ns == then.modified_ns
    try:
        return hash_video(now.path) == then.sha256
    except OSError:  # it cannot be read now
        return False


def _is_changed(wanted: Wanted, stored: list[CachedVideo]) -> bool:
    return bool(stored) and not any(_is_same(wanted.video, video) for video in stored)


def _update(stored: CachedVideo, wanted: Wanted) -> CachedVideo:
    """The features of then under today's label, path and time."""
    now = wanted.video
    num_clips = min(stored.num_clips, wanted.num_clips)
    return replace(
        stored, path=now.path, label=now.label, name=now.name, modified_ns=now.modified_ns, num_clips=num_clips
    )
