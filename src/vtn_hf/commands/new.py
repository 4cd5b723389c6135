"""
Makes a classifier from a folder of videos.

    vtn new --data_dir VIDEOS --output_dir MINE

Checks every video, and leaves out what is damaged; holds a part of each class out, where the folder has no val; runs a
pretrained image model over all frames; trains a temporal encoder and a head on what it gave, and keeps the best. Then
MINE loads with `pipeline("video-classification", model="MINE")`, and MINE/report/index.html shows how good it is.

Each step is a command of its own, which is printed. Stopped, the same command goes on where it was.
"""

import argparse
import importlib
import json
import math
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from ..data.collection import read_collection
from ..data.feature_cache import CacheIndex
from .arguments import add_shared
from .console import CommandParser, command, show


# Enough steps for a new head, however few the videos are.
MIN_STEPS = 500
BATCH_SIZE = 16
MAX_EPOCHS = 100


def scan(options: argparse.Namespace, table: Path) -> list:
    return ["scan", "--data_dir", options.data_dir, "--output", table, *pass_on(options, "num_workers")]


def split(options: argparse.Namespace, table: Path, lists: Path) -> list:
    given = pass_on(options, "val_share", "val_group", "class_names")
    names = ["--data_dir", options.data_dir, "--scan_table", table, "--output_dir", lists]
    return ["split", *names, "--val_seed", options.seed, *given]


def extract(options: argparse.Namespace, data_dir: Path, table: Path, features: Path) -> list:
    given = pass_on(
        options, "backbone_name_or_path", "num_frames", "fps", "device", "num_workers", "class_names", "overwrite"
    )
    return ["extract", "--data_dir", data_dir, "--scan_table", table, "--output_dir", features, *given]


def train(options: argparse.Namespace, features: Path) -> list:
    num_videos = len(CacheIndex.load(features).splits["train"])
    num_epochs = min(max(math.ceil(MIN_STEPS / math.ceil(num_videos / BATCH_SIZE)), 10), MAX_EPOCHS)
    best = ["--load_best_model_at_end", "--save_strategy", "steps", "--save_steps", 0.05, "--early_stopping", 10]
    length = ["--num_train_epochs", num_epochs, "--per_device_train_batch_size", BATCH_SIZE]
    given = pass_on(options, "device", "seed", "overwrite")
    names = ["--features", features, "--recipe", "cached_features", "--output_dir", options.output_dir]
    return ["train", *names, *length, *best, *given]


def pass_on(options: argparse.Namespace, *names: str) -> Iterator[str]:
    """Options of these names, as far as they are given."""
    for name in names:
        value = getattr(options, name)
        if value is True:
            yield f"--{name}"
        elif value not in (None, False):
            yield from (f"--{name}", value)


def run(what: str, words: list) -> int:
    """Runs a command; returns its exit status."""
    name, *arguments = map(str, words)
    show(f"\n{what}\n    vtn {name} {shlex.join(arguments)}\n")
    return importlib.import_module(f"vtn_hf.commands.{name}").main(arguments)


def make_parser() -> CommandParser:
    parser = CommandParser("new", __doc__)
    add_shared(parser, "data_dir", required=True)
    add_shared(parser, "output_dir", required=True)
    add_shared(parser, "overwrite", help="features and model, not what is known of the videos")
    add_shared(parser, "backbone_name_or_path", default="facebook/dinov2-small")
    add_shared(parser, "num_frames", default_is="250")
    add_shared(parser, "fps")
    add_shared(parser, "class_names")
    add_shared(parser, "val_share", default=0.2, help="held out where there is none")
    add_shared(parser, "val_group")
    add_shared(parser, "device")
    add_shared(parser, "num_workers", default_is="as in each step")
    add_shared(parser, "seed", default=0)
    return parser


@command("new")
def main(argv: list[str] | None = None) -> int:
    """Takes the steps that are not done yet; returns the exit status of the one that failed, or 0."""
    options = make_parser().parse_args(argv)
    output_dir = options.output_dir
    table, lists, features = output_dir / "scan.csv", output_dir / "split", output_dir / "features"
    status = run("[1/4] Checking every video; damaged ones are left out", scan(options, table))
    if status > 1:
        return status
    data_dir = options.data_dir
    if not read_collection(data_dir, scan_table=table, streaming=True).num_videos.get("val"):
        data_dir = lists
        if (lists / "train.csv").is_file():
            show(f"\n[2/4] The videos are split already, in {lists}; without it they are split anew.")
        elif status := run("[2/4] Holding videos out to evaluate on", split(options, table, lists)):
            return status
    else:
        show(f"\n[2/4] {data_dir} has videos to evaluate on.")
    what = f"[3/4] Computing features of every frame with {options.backbone_name_or_path}"
    if status := run(what, extract(options, data_dir, table, features)):
        return status
    if status := run("[4/4] Training on them, with an evaluation every 5 %", train(options, features)):
        return status
    summarize(output_dir)
    return 0


def summarize(output_dir: Path):
    """Says how good the model is and how to use it."""
    results = json.loads((output_dir / "eval_results.json").read_text(encoding="utf-8"))
    name = "map" if "eval_map" in results else "top1"
    show(
        f"\n{name} on the videos held out: {results[f'eval_{name}']:.3f}; {output_dir / 'report/index.html'} shows "
        f"which are wrong.\nTo use it:\n    vtn classify --model {shlex.quote(str(output_dir))} VIDEOS\n"
        f'    pipeline("video-classification", model={str(output_dir)!r})    # after import vtn_hf'
    )


if __name__ == "__main__":
    sys.exit(main())
