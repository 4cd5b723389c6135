"""
Checks every video of a folder: opens and decodes it fully, and writes what is known of it into a table.

    python examples/scan_videos.py VIDEOS --table scan.csv
    accelerate launch examples/train.py --data_dir VIDEOS --scan_table scan.csv …     # leaves out what is bad

Stopped and started again it goes on where it was; files that have not changed are not decoded twice. Ends with the
files that are bad, why, and what is left of each class.
"""

import argparse
import os
from pathlib import Path

from tqdm import tqdm

from vtn_hf.data.listing import VIDEO_EXTENSIONS
from vtn_hf.data.scan import describe_coverage, scan_videos


def main():
    """Scans, writes the table, prints the coverage."""
    parser = argparse.ArgumentParser(description="Check that the videos of a folder can be decoded.")
    parser.add_argument("root", type=Path, help="folder with videos at any depth")
    parser.add_argument("--table", type=Path, required=True, help="CSV file to write, or to go on with")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count(), help="files at a time")
    parser.add_argument("--time_limit_sec", type=float, default=300, help="seconds for one file")
    options = parser.parse_args()
    paths = [str(path) for path in sorted(options.root.rglob("*")) if path.suffix.lower() in VIDEO_EXTENSIONS]
    if not paths:
        parser.error(f"{options.root} holds no file with one of the endings {', '.join(VIDEO_EXTENSIONS)}")
    videos = scan_videos(paths, options.table, options.num_workers, options.time_limit_sec)
    print(describe_coverage(tqdm(videos, total=len(paths), unit="file")))


if __name__ == "__main__":
    main()
