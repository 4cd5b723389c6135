"""
What `--class_balance` does for rare classes, on the quickstart's videos: of each pair of classes that only the
direction of time tells apart, one has a twentieth of the training videos of the other; all have as many held-out ones.

    python examples/rare_classes.py RUNS --output rare_classes.json

A VTN is trained end to end on the unbalanced videos as they are; its backbone makes the features that all others are
trained on, from fresh temporal encoders, with each way of balancing and three seeds. Stopped, the same command goes
on. It prints the accuracies, averaged over classes: over all, the frequent and the rare ones.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from drawn_videos.motion_clips import CLASS_NAMES, TIME_REVERSED, write_motion_clips
from vtn_hf import VTNForVideoClassification
from vtn_hf.commands import extract, train
from vtn_hf.outputs import check_outputs, writing, writing_folder
from vtn_hf.training.class_balance import CLASS_BALANCES


RECIPE = Path(__file__).parent / "configs/quickstart.yaml"
RATIO = 20
# The one of each pair that comes first by its name is frequent.
RARE = [name for name in CLASS_NAMES if TIME_REVERSED[name] < name]


def write_lists(clips: Path, folder: Path):
    """Lists all held-out clips and all training clips of frequent classes, but every twentieth of rare ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        rows = []
        for name in CLASS_NAMES:
            files = sorted((clips / split / name).glob("*.mp4"))
            chosen = files[::RATIO] if split == "train" and name in RARE else files
            rows += [(file.absolute(), name) for file in chosen]
        with writing(folder / f"{split}.csv") as unfinished, open(unfinished, "w", newline="") as file:
            csv.writer(file).writerows([("video", "label"), *rows])


def call(command: Callable[[list[str]], int], *arguments: str | Path):
    """Runs a command of `vtn`; ends with it if it fails."""
    if status := command(list(map(str, arguments))):
        sys.exit(status)


def make_features(runs: Path, num_epochs: int, num_workers: int):
    """Trains end to end, and leaves `RUNS/features` and the image model that made them in `RUNS/backbone`."""
    loading = ["--num_workers", num_workers, "--dataloader_persistent_workers", "true" if num_workers else "false"]
    arguments = ["--recipe", RECIPE, "--data_dir", runs / "lists", "--num_train_epochs", num_epochs, *loading]
    call(train.main, *arguments, "--output_dir", runs / "end_to_end")
    with writing_folder(runs / "backbone") as unfinished:
        VTNForVideoClassification.from_pretrained(runs / "end_to_end").vtn.backbone.save_pretrained(unfinished)
    arguments = ["--data_dir", runs / "lists", "--backbone_name_or_path", runs / "end_to_end"]
    call(extract.main, *arguments, "--output_dir", runs / "features", "--num_workers", num_workers)


def train_on_features(runs: Path, balance: str, seed: int, num_epochs: int) -> dict:
    """Trains, or goes on, and reads the recall of each class from the report."""
    recipe, folder = yaml.safe_load(RECIPE.read_text(encoding="utf-8")), runs / f"{balance}_{seed}"
    fields = {name: value for name, value in recipe["model_config"].items() if name != "backbone_config"}
    settings = {
        "features": runs / "features",
        "backbone_name_or_path": runs / "backbone",
        "model_config": json.dumps(fields),
        "output_dir": folder,
        "num_train_epochs": num_epochs,
        "num_workers": 0,
        "class_balance": balance,
        "seed": seed,
    }
    same = ("per_device_train_batch_size", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay")
    settings |= {name: recipe[name] for name in (*same, "save_strategy", "eval_strategy", "report_to")}
    call(train.main, *(text for name, value in settings.items() for text in (f"--{name}", value)))
    with open(folder / "report/classes.csv", encoding="utf-8", newline="") as file:
        recall = {row["class"]: float(row["recall"]) for row in csv.DictReader(file)}
    groups = {"all": CLASS_NAMES, "frequent": set(CLASS_NAMES) - {*RARE}, "rare": RARE}
    means = {group: round(float(np.mean([recall[name] for name in names])), 4) for group, names in groups.items()}
    return {"class_balance": balance, "seed": seed} | means


def main(argv: list[str] | None = None) -> int:
    """Trains all models and prints the table."""
    parser = argparse.ArgumentParser(description="Mean class accuracy with and without balancing of classes.")
    parser.add_argument("runs", type=Path, help="folder for videos and runs")
    parser.add_argument("--output", type=Path, required=True, help="figures of every run, as JSON")
    parser.add_argument("--num_train", type=int, default=3600, help="training clips before rare classes lose theirs")
    parser.add_argument("--num_val", type=int, default=600, help="held-out clips")
    parser.add_argument("--num_train_epochs", type=int, default=8, help="of the training end to end")
    parser.add_argument("--num_feature_epochs", type=int, default=16, help="of each training on features")
    parser.add_argument("--num_workers", type=int, default=2, help="processes that decode videos")
    parser.add_argument("--seeds", type=int, default=3, help="runs with each way of balancing")
    options = parser.parse_args(argv)
    check_outputs([options.output], [], overwrite=True)
    write_motion_clips(options.runs / "clips", options.num_train, options.num_val)
    write_lists(options.runs / "clips", options.runs / "lists")
    make_features(options.runs, options.num_train_epochs, options.num_workers)
    results = []
    for seed in range(options.seeds):
        for balance in CLASS_BALANCES:
            results.append(train_on_features(options.runs, balance, seed, options.num_feature_epochs))
            print("  ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    with writing(options.output) as path:
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    # Torch's threads would spin while they wait for each other, on the cores that decode videos.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
