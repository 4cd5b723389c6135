"""
Checks every video of a folder: opens and decodes it fully, and writes what is known of it into a table.

    vtn scan --data_dir VIDEOS --output scan.csv
    vtn train --data_dir VIDEOS --scan_table scan.csv …     # leaves out what is bad

Each file is decoded in a process with limits of time and memory, so that one that crashes or hangs FFmpeg costs
itself only. Stopped and started again it goes on where it was; files that have not changed are not decoded twice,
except those for which time or memory did not suffice. Ends with the files that are bad, why, and what is left of each
class; the videos that are there more than once, re-encoded or smaller copies too; and the sizes of the classes. The
exit status is 1 if there are bad ones, 2 if nothing could be scanned.
"""

import os
import sys
from pathlib import Path

from tqdm import tqdm

from ..data.listing import VIDEO_EXTENSIONS, PassedOver, find_videos
from ..data.scan import describe_classes, describe_coverage, describe_duplicates, find_places, scan_videos
from ..outputs import check_outputs
from .arguments import add_shared
from .console import CommandParser, command


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
    scanned = scan_videos(paths, table, num_workers, time_limit_sec, memory_limit_gib)
    videos = list(tqdm(scanned, total=len(paths), unit="file"))
    splits, labels = find_places(root, videos)
    parts = [describe_coverage(videos), describe_duplicates(videos, splits), describe_classes(labels)]
    print("\n".join([*passed_over.describe(root), *parts]))
    return all(video.ok for video in videos)


def make_parser() -> CommandParser:
    parser = CommandParser("scan", __doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of videos: at any depth")
    add_shared(parser, "output", required=True, help="the table, .csv")
    add_shared(parser, "num_workers", default_is="one per CPU", default=os.cpu_count())
    add_shared(parser, "time_limit_sec", default=300)
    add_shared(parser, "memory_limit_gib", default=4)
    return parser


@command("scan")
def main(argv: list[str] | None = None) -> int:
    """Scans as the arguments say; returns the exit status."""
    options = make_parser().parse_args(argv)
    limits = (options.num_workers, options.time_limit_sec, options.memory_limit_gib)
    return 0 if scan(options.data_dir, options.output, *limits) else 1


if __name__ == "__main__":
    sys.exit(main())
