"""
What a VTN recognises in filmed videos: a small collection in class folders, ROOT/CLASS/VIDEO, in folds that keep
together what belongs together.

    python examples/filmed_videos.py ROOT --backbone_name_or_path BACKBONE --output_dir RUN
    python examples/filmed_videos.py ROOT --output_dir RUN --only "end to end"
    python examples/filmed_videos.py ROOT --output_dir RUN --report_only

Videos belong together if they are of one recording by ROOT/videos.txt, or if their names are alike up to the last
underscore (SPEAKER_REPETITION.mp4). A cell is a variant, a seed and a fold, and adds a line to RUN/results.jsonl; the
same command goes on with the cells that are missing.

`--protocol val` leaves the test folds alone: it trains on three folds and evaluates on a fourth, which is how settings
were chosen.
"""

import argparse
import json
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filmed.collection import find_groups, make_folds
from filmed.inputs import Pictures, Shuffled, TimeChange, load_pictures, make_processor, take_part
from filmed.pixel_baseline import predict_from_pixels
from filmed.report import write_report
from filmed.variants import VARIANTS, Variant
from torch import nn
from torch.utils.data import Dataset, Subset
from tqdm import tqdm
from transformers import set_seed
from transformers.modeling_utils import PreTrainedModel

from vtn_hf import VTNConfig, VTNVideoProcessor
from vtn_hf.commands import extract
from vtn_hf.data.augmentation import ClipAugmentation
from vtn_hf.data.clips import collate_videos
from vtn_hf.data.collection import read_collection
from vtn_hf.data.feature_cache import CachedClips, FeatureCacheInfo
from vtn_hf.pretrained_backbone import load_backbone_config
from vtn_hf.training.arguments import VTNTrainingArguments
from vtn_hf.training.metrics import keep_logits
from vtn_hf.training.trainer import SetEpoch, VTNTrainer


NUM_FOLDS = 5
# Test on sampled clips: so many parts of the video, each of this share of it.
NUM_PARTS, PART_SHARE = 5, 0.5


@dataclass
class Videos:
    """A collection: paths, classes and folds; where what is computed of it is kept; and what becomes features."""

    paths: list[str]
    labels: np.ndarray
    class_names: list[str]
    folds: list[np.ndarray]
    output_dir: Path
    backbone_name_or_path: str | None = None
    frame_size: int = 224
    num_frames: int = 8
    num_workers: int = 1

    def find_features_dir(self, frame_grid: int | None) -> Path:
        return self.output_dir / ("features" if frame_grid is None else f"features_{frame_grid}x{frame_grid}")

    def split(self, fold: int, protocol: str) -> tuple[np.ndarray, np.ndarray]:
        """Indices to train on and to evaluate on."""
        held_out = {fold} if protocol == "test" else {fold, (fold + 1) % NUM_FOLDS}
        train = [part for number, part in enumerate(self.folds) if number not in held_out]
        return np.concatenate(train), self.folds[fold if protocol == "test" else (fold + 1) % NUM_FOLDS]

    def load_pictures(self, size: int) -> list[dict[str, torch.Tensor]]:
        return load_pictures(tuple(self.paths), size, self.output_dir / f"pictures_{size}.pt")


def read_videos(options: argparse.Namespace) -> Videos:
    """The collection, in the order in which it is extracted."""
    collection = read_collection(options.data_dir, val_share=0)
    rows = collection.get_split("train")
    names, labels = rows["name"][:], np.array(rows["label"][:])
    folds = make_folds(find_groups(Path(options.data_dir), names), labels, NUM_FOLDS)
    paths = [video["path"] for video in rows["video"][:]]
    names = ("output_dir", "backbone_name_or_path", "frame_size", "num_frames", "num_workers")
    settings = {name: getattr(options, name) for name in names}
    return Videos(paths, labels, collection.class_names, folds, **settings)


def extract_features(data_dir: str, videos: Videos, frame_grid: int | None, is_mirrored: bool = True):
    """Computes the features that are not there yet."""
    features_dir = videos.find_features_dir(frame_grid)
    command = ["--data_dir", data_dir, "--backbone_name_or_path", videos.backbone_name_or_path, "--val_share", "0"]
    command += ["--output_dir", str(features_dir), "--num_frames", str(videos.num_frames)]
    command += [] if frame_grid is None else ["--frame_grid", str(frame_grid)]
    # Whole pictures, squeezed to a square, and their mirror images.
    side = str(videos.frame_size)
    command += ["--resize_to", side, side, "--crop_size", side]
    command += ["--num_views", "2", "--flip_prob", "1"] if is_mirrored else []
    command += ["--num_workers", str(videos.num_workers)]
    extract.main(command)
    if (found := CachedClips(features_dir, "train").paths) != videos.paths:
        raise ValueError(f"{features_dir} holds features of {len(found)} videos, not of {len(videos.paths)}.")


class Cell:
    """A variant, a seed and a fold: what it is trained on and what comes out."""

    def __init__(self, variant: Variant, videos: Videos, seed: int, fold: int, protocol: str):
        self.variant = variant
        self.videos = videos
        self.seed = seed
        self.train, self.test = videos.split(fold, protocol)
        self.features_dir = videos.find_features_dir(variant.frame_grid)

    def make_model(self) -> PreTrainedModel:
        fields = {"id2label": dict(enumerate(self.videos.class_names)), "num_frames": self.make_processor().num_frames}
        fields |= {"label2id": {name: label for label, name in enumerate(self.videos.class_names)}}
        fields |= {"problem_type": "single_label_classification"} | self.variant.fields
        if self.variant.is_end_to_end:
            return self.variant.model(VTNConfig(**fields))
        backbone_config = load_backbone_config(self.videos.backbone_name_or_path)
        return self.variant.model(VTNConfig(backbone_config=backbone_config, **fields))

    def make_processor(self) -> VTNVideoProcessor:
        if self.variant.is_end_to_end:
            size = self.variant.pictures["size"]
            pictures = self.videos.load_pictures(size)
            return make_processor(size, [pictures[index]["pixel_values"] for index in self.train])
        return VTNVideoProcessor.from_dict(FeatureCacheInfo.load(self.features_dir).processor)

    def make_training_videos(self) -> tuple[Dataset, CachedClips | Pictures]:
        """What the trainer reads, and below it what learns of the epochs."""
        variant = self.variant
        changes = {"time_augmentation": variant.time, "mixup_alpha": variant.mixup_alpha, "seed": self.seed}
        if variant.is_end_to_end:
            settings = dict(variant.pictures)
            size = settings.pop("size")
            pictures = self.videos.load_pictures(size)
            augmentation = ClipAugmentation(make_processor(size), **settings) if settings else None
            source = Pictures(pictures, torch.from_numpy(self.videos.labels), augmentation=augmentation, **changes)
        else:
            changes["feature_drop_prob"] = variant.feature_drop_prob
            changes["view"] = None if variant.is_mirrored else 0
            source = CachedClips(self.features_dir, "train", **changes)
        return self._choose(source, self.train), source

    def make_test_videos(self, time_augmentation: TimeChange | None = None, is_mirrored: bool = False) -> Dataset:
        if self.variant.is_end_to_end:
            pictures = self.videos.load_pictures(self.variant.pictures["size"])
            labels = torch.from_numpy(self.videos.labels)
            processor = make_processor(self.variant.pictures["size"])
            mirror = ClipAugmentation(processor, flip_prob=1.0) if is_mirrored else None
            source = Pictures(pictures, labels, augmentation=mirror, time_augmentation=time_augmentation)
        else:
            view = int(is_mirrored)
            source = CachedClips(self.features_dir, "train", view=view, time_augmentation=time_augmentation)
        return self._choose(source, self.test)

    def _choose(self, source: Dataset, indices: np.ndarray) -> Dataset:
        videos = Subset(source, indices.tolist())
        return Shuffled(videos) if self.variant.is_shuffled else videos

    def train_model(self) -> tuple[VTNTrainer, float]:
        """A trainer whose model is trained, and the seconds that it took."""
        set_seed(self.seed)
        training_videos, source = self.make_training_videos()
        model = self.make_model()
        if not self.variant.is_end_to_end:
            # Its features are there; hundreds of modules that are not called would cost half of a training step.
            model.vtn.backbone = nn.Identity()
        trainer = VTNTrainer(
            model=model,
            args=self.make_arguments(),
            train_dataset=training_videos,
            data_collator=collate_videos,
            processing_class=self.make_processor(),
            preprocess_logits_for_metrics=keep_logits,
            callbacks=[SetEpoch(source)],
            # Of these models there is little to optimise, and it is looked for once per cell.
            optimize=False,
        )
        start = time.monotonic()
        trainer.train()
        return trainer, time.monotonic() - start

    def run(self) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """
        Class probabilities (videos, classes) of whole videos, averaged with those of their mirror images, and averaged
        over parts of them; and what it cost.
        """
        trainer, seconds = self.train_model()
        cost = {"train_sec": round(seconds, 1)}
        cost["num_parameters"] = trainer.model.num_parameters(only_trainable=True)
        scores = {"whole": self.predict(trainer, self.make_test_videos())}
        mirrored = self.predict(trainer, self.make_test_videos(is_mirrored=True))
        scores["mirrored"] = (scores["whole"] + mirrored) / 2
        take = partial(take_part, num_parts=NUM_PARTS, share=PART_SHARE)
        parts = [partial(take, number=number) for number in range(NUM_PARTS)]
        scores["parts"] = np.mean([self.predict(trainer, self.make_test_videos(part)) for part in parts], axis=0)
        return scores, cost

    def time_videos(self, num_videos: int) -> float:
        """Seconds from a file to its scores, the median of so many videos; weights are random."""
        model, processor = self.make_model().eval(), self.make_processor()
        seconds = []
        # Of the first one, some goes to what is done once.
        for index in self.test[: num_videos + 1]:
            start = time.perf_counter()
            inputs = processor(self.videos.paths[index], return_tensors="pt")
            with torch.inference_mode():
                model(**inputs).logits.softmax(dim=-1)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:])

    def make_arguments(self) -> VTNTrainingArguments:
        return VTNTrainingArguments(
            output_dir=str(self.videos.output_dir / "trainer"),
            seed=self.seed,
            per_device_eval_batch_size=64,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            label_names=["labels"],
            **self.variant.training,
        )

    def predict(self, trainer: VTNTrainer, videos: Dataset) -> np.ndarray:
        logits = trainer.predict(videos).predictions
        return torch.from_numpy(logits).softmax(dim=-1).numpy()


def list_cells(options: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """The cells asked for that are not there yet: variant, seed, fold. The first seed of all variants first."""
    done = {
        (line["variant"], line["seed"], line["fold"], line["protocol"]) for line in read_results(options.output_dir)
    }
    for seed in options.seeds:
        for name in VARIANTS:
            for fold in options.folds:
                if re.search(options.only, name) and (name, seed, fold, options.protocol) not in done:
                    yield name, seed, fold


def read_results(output_dir: Path) -> list[dict]:
    path = output_dir / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def run_cell(name: str, seed: int, fold: int, videos: Videos, protocol: str) -> dict:
    """Trains and evaluates, keeps the scores, and returns the line for the results."""
    cell = Cell(VARIANTS[name] or Variant(), videos, seed, fold, protocol)
    if VARIANTS[name] is None:
        start = time.monotonic()
        pictures = videos.load_pictures(16)
        scores = {"whole": predict_from_pixels(pictures, videos.labels, cell.train, cell.test)}
        cost = {"train_sec": round(time.monotonic() - start, 1)}
    else:
        scores, cost = cell.run()
    path = videos.output_dir / "scores" / protocol / f"{name}_{seed}_{fold}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, test=cell.test, **scores)
    hits = {way: float((each.argmax(1) == videos.labels[cell.test]).mean()) for way, each in scores.items()}
    return {"variant": name, "seed": seed, "fold": fold, "protocol": protocol} | {"top1": hits} | cost


def time_variants(videos: Videos, only: str, num_videos: int):
    """Keeps the seconds per video of the variants in RUN/seconds.json."""
    path = videos.output_dir / "seconds.json"
    seconds = json.loads(path.read_text()) if path.is_file() else {}
    for name, variant in VARIANTS.items():
        if variant is not None and re.search(only, name):
            seconds[name] = Cell(variant, videos, seed=0, fold=0, protocol="test").time_videos(num_videos)
    path.write_text(json.dumps(seconds, indent=2) + "\n")


def main(argv: list[str] | None = None):
    """Runs what is missing and reports what is there."""
    parser = argparse.ArgumentParser(description="VTN on filmed videos.")
    parser.add_argument("data_dir", help="ROOT/CLASS/VIDEO")
    parser.add_argument("--backbone_name_or_path", help="image model; what is trained end to end needs none")
    parser.add_argument("--output_dir", type=Path, required=True, help="everything that is made")
    parser.add_argument("--frame_size", type=int, default=224, help="pixels of a side, of frames that become features")
    parser.add_argument("--num_frames", type=int, default=8, help="of a video, at most, that become features")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that decode what becomes features")
    parser.add_argument("--only", default="", help="regular expression on the names of the variants")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(NUM_FOLDS)))
    parser.add_argument("--protocol", choices=("test", "val"), default="test", help="what is evaluated on")
    parser.add_argument("--num_timed", type=int, default=0, help="videos to time, from file to scores")
    parser.add_argument("--report_only", action="store_true", help="train nothing")
    options = parser.parse_args(argv)
    chosen = [variant for name, variant in VARIANTS.items() if re.search(options.only, name)]
    if not chosen:
        parser.error(f"--only {options.only} is in the name of no variant; they are: {', '.join(VARIANTS)}.")
    needs_backbone = any(variant is not None and not variant.is_end_to_end for variant in chosen)
    if needs_backbone and options.backbone_name_or_path is None and not options.report_only:
        parser.error('--backbone_name_or_path is missing; --only "kernel|end to end" does without.')
    videos = read_videos(options)
    if not options.report_only:
        cells = list(list_cells(options))
        variants = [VARIANTS[name] for name, _, _ in cells if VARIANTS[name] is not None]
        for frame_grid in dict.fromkeys(each.frame_grid for each in variants if not each.is_end_to_end):
            extract_features(options.data_dir, videos, frame_grid)
        for name, seed, fold in tqdm(cells, unit="cell"):
            line = run_cell(name, seed, fold, videos, options.protocol)
            with open(options.output_dir / "results.jsonl", "a") as results:
                results.write(json.dumps(line) + "\n")
        if options.num_timed:
            time_variants(videos, options.only, options.num_timed)
    write_report(read_results(options.output_dir), videos.labels, options.output_dir, options.folds)


if __name__ == "__main__":
    main()
