"""
Cuts a collection into train, val and test: lists in OUTPUT_DIR, which --data_dir of the other commands takes.

    vtn split --data_dir VIDEOS --output_dir LISTS --val_share 0.1 --test_share 0.1
    vtn split --data_dir VIDEOS --output_dir LISTS --val_group 'person\\d+' --scan_table scan.csv

Each class has the same shares in all splits, as far as the groups allow: no group is in two splits. A group is what
--val_group says, a column of the csv files or a part of the videos' names; with --scan_table, copies of a video are in
one group, too, and damaged ones are left out. The parts of a file always stay together. Splits that are there are
joined.
"""

import csv
import io
import sys
from collections import Counter
from pathlib import Path

from ..data.class_names import CLASS_NAMES_FILE, read_class_names
from ..data.collection import read_collection, read_listing
from ..data.group_split import split_listing
from ..data.listing import Listing, Row, find_file
from ..data.scan import find_scanned_duplicates, read_scan
from ..outputs import check_outputs, writing
from .arguments import add_shared, positive
from .console import CommandParser, command, show


def make_list(rows: list[Row], class_names: list[str]) -> str:
    """The csv file of a split."""
    is_multi_label = any(isinstance(row.label, list) for row in rows)
    has_segments = any(row.segment != (None, None) for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "labels" if is_multi_label else "label", *["start_sec", "end_sec"] * has_segments])
    for row in rows:
        file = find_file(row.video)
        # What is no UTF-8 is a URL already.
        video = row.video if file is None or "://" in row.video else str(Path(file).absolute())
        labels = ";".join(class_names[label] for label in row.labels)
        writer.writerow([video, labels, *row.segment] if has_segments else [video, labels])
    return text.getvalue()


def describe_shares(splits: dict[str, list[Row]], shares: dict[str, float], class_names: list[str]) -> str:
    """Which class is farthest from the shares that it should have."""
    counts = {name: Counter(label for row in rows for label in row.labels) for name, rows in splits.items()}
    total = sum(counts.values(), Counter())
    distances = {
        (name, label): counts[name][label] / total[label] - share for name, share in shares.items() for label in total
    }
    (name, label), _ = max(distances.items(), key=lambda item: abs(item[1]))
    found = counts[name][label] / total[label]
    return f"Farthest from its share: {class_names[label]}, {found:.1%} in {name} for {shares[name]:.1%}."


def check_listing(listing: Listing):
    """Refuses what lists of files cannot hold, and says what is done with splits that are there."""
    if listing.num_shards:
        raise ValueError(f"{listing.root} has its videos in tar files; unpack them to split them.")
    joined = [name for name, rows in listing.rows.items() if rows]
    if len(joined) > 1:
        show(f"{', '.join(joined)} are joined, and split anew.")


def make_parser() -> CommandParser:
    parser = CommandParser("split", __doc__)
    add_shared(parser, "data_dir", required=True)
    add_shared(parser, "output_dir", required=True)
    add_shared(parser, "overwrite")
    add_shared(parser, "val_share", default=0.2, help="the others are for train")
    parser.add_argument(
        "--test_share", type=positive(float), help="about which share of each class is for test; default: no test"
    )
    add_shared(parser, "val_group")
    add_shared(parser, "val_seed", default=0)
    add_shared(parser, "scan_table", help="copies stay together, bad videos are left out")
    add_shared(parser, "class_names")
    return parser


@command("split")
def main(argv: list[str] | None = None) -> int:
    """Splits as the arguments say; returns the exit status."""
    options = make_parser().parse_args(argv)
    shares = {"val": options.val_share} | ({"test": options.test_share} if options.test_share else {})
    shares = {"train": 1 - sum(shares.values())} | shares
    outputs = [options.output_dir / f"{name}.csv" for name in shares] + [options.output_dir / CLASS_NAMES_FILE]
    check_outputs(outputs, [options.data_dir], options.overwrite)
    names = options.class_names and read_class_names(options.class_names)
    listing, class_names, _ = read_listing(options.data_dir, names, options.scan_table, options.val_group)
    check_listing(listing)
    scanned = read_scan(options.scan_table).values() if options.scan_table else ()
    splits = split_listing(listing, shares, options.val_group, find_scanned_duplicates(scanned), options.val_seed)
    for name, path in zip(splits, outputs, strict=False):
        with writing(path) as unfinished:
            unfinished.write_text(make_list(splits[name], class_names), encoding="utf-8")
    with writing(outputs[-1]) as unfinished:
        unfinished.write_text("\n".join(class_names) + "\n", encoding="utf-8")
    for note in listing.notes:
        show(f"Note: {note}")
    show(read_collection(options.output_dir).describe())
    show(describe_shares(splits, shares, class_names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
