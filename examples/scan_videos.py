"""
Checks every video of a folder: opens and decodes it fully, and writes what is known of it into a table.

    python examples/scan_videos.py VIDEOS --table scan.csv
    accelerate launch examples/train.py --data_dir VIDEOS --scan_table scan.csv …     # leaves out what is bad

Each file is decoded in a process with limits of time and memory, so that one that crashes or hangs FFmpeg costs
itself only. Stopped and started again it goes on where it was; files that have not changed are not decoded twice,
except those for which time or memory did not suffice. Ends with the files that are bad, why, and what is left of each
class; the videos that are there more than once, re-encoded or smaller copies too; and the sizes of the classes. The
exit status is 1 if there are bad ones, 2 if nothing could be scanned.
"""

import argparse
import os
import sys
from pathlib import Path

from classify import positive
from tqdm import tqdm

from vtn_hf.data.listing import VIDEO_EXTENSIONS, PassedOver, find_videos
from vtn_hf.data.scan import (
    describe_classes,
    describe_coverage,
    describe_duplicates,
    find_places,
    scan_videos,
)
from vtn_hf.outputs import check_outputs


def scan(root: Path, table: Path, num_workers: int, time_limit_sec: float, memory_limit_gib: float) -> bool:
    """Scans, writes the table, prints the coverage; returns whether all videos are good."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder.")
    passed_over = PassedOver()
    paths = [str(path) for path in find_videos(root, passed_over)]
    if not paths:
        endings = ", ".join(VIDEO_EXTENSIONS)
        found = " ".join(passed_over.describe(root))
        raise FileNotFoundError(f"{root} holds no file with one of the endings {endings}. {found}")
    check_outputs([table], [root, *paths], overwrite=True)
    videos = scan_videos(paths, table, num_workers, time_limit_sec, memory_limit_gib)
    videos = list(tqdm(videos, total=len(paths), unit="file"))
    splits, labels = find_places(root, videos)
    parts = [describe_coverage(videos), describe_duplicates(videos, splits), describe_classes(labels)]
    print("\n".join([*passed_over.describe(root), *parts]))
    return all(video.ok for video in videos)


def main(argv: list[str] | None = None) -> int:
    """Scans as the arguments say; returns the exit status."""
    parser = argparse.ArgumentParser("scan_videos.py", description="Check that the videos of a folder can be decoded.")
    parser.add_argument("root", type=Path, help="folder with videos at any depth")
    parser.add_argument("--table", type=Path, required=True, help="CSV file to write, or to go on with")
    parser.add_argument("--num_workers", type=positive(int), default=os.cpu_count(), help="files at a time")
    parser.add_argument("--time_limit_sec", type=positive(float), default=300, help="seconds for one file")
    parser.add_argument("--memory_limit_gib", type=positive(float), default=4, help="memory for one file")
    try:
        return 0 if scan(**vars(parser.parse_args(argv))) else 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return 130
    except (ValueError, FileNotFoundError, BlockingIOError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    sys.exit(main())
