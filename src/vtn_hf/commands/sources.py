"""The videos that a command is given: files, URLs, folders and globs."""

import glob
import os
import sys
from pathlib import Path

from ..data.listing import VIDEO_EXTENSIONS, PassedOver
from ..data.listing import find_videos as find_below
from ..data.video_lists import read_sources
from ..video_decoding_vtn import VideoSource
from .console import show


def find_sources(sources: list[str]) -> tuple[dict[str, VideoSource], list[str]]:
    """
    As [`find_videos`], and the videos of csv files, a column `video`, and `start_sec` and `end_sec` where parts of
    them are meant; by their names.
    """
    lists = [source for source in sources if source.lower().endswith(".csv") and Path(source).is_file()]
    videos, folders = find_videos([source for source in sources if source not in lists])
    found: dict[str, VideoSource] = dict(zip(videos, videos, strict=True))
    for file in lists:
        found |= read_sources(Path(file))
    return found, folders


def find_videos(sources: list[str]) -> tuple[list[str], list[str]]:
    """
    Files and URLs as they are, the videos below folders, and what globs match, each once.

    Returns:
        The videos, and the folders that were searched.

    Raises:
        FileNotFoundError: If a source is not there or holds no videos.
    """
    videos: dict[str, str] = {}
    folders = []
    for source in sources:
        if Path(source).is_dir():
            folders.append(source)
            passed_over = PassedOver()
            found = [str(path) for path in find_below(Path(source), passed_over)]
            for note in passed_over.describe(Path(source)):
                show(f"{source}: {note}", file=sys.stderr)
        elif "://" in source or Path(source).exists():
            found = [source]
        elif glob.has_magic(source):
            folders.append(os.path.dirname(glob.escape(source).partition("[")[0]) or ".")
            found = sorted(path for path in glob.glob(source, recursive=True) if not Path(path).is_dir())
        else:
            raise FileNotFoundError(f"{source}: no such file or folder.")
        if not found:
            raise FileNotFoundError(f"{source}: no videos there, which end in {', '.join(VIDEO_EXTENSIONS)}.")
        videos |= {video if "://" in video else str(Path(video).absolute()): video for video in found}
    return list(videos.values()), folders
