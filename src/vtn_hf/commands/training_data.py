"""What `vtn train` trains and evaluates on, and how much of it could be used."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from torch.utils.data import Dataset
from transformers import TrainingArguments

from .. import VTNVideoProcessor
from ..data.augmentation import ClipMixing
from ..data.class_names import read_class_names
from ..data.clips import ClipTransform
from ..data.coverage import SkippedVideos, report_coverage
from ..data.feature_cache import CachedClips, CacheIndex
from ..data.time_augmentation import TimeAugmentation
from ..training.min_coverage import check_coverage
from .training_arguments import DataArguments


def change_clips(data_args: DataArguments, processor: VTNVideoProcessor) -> dict[str, Any]:
    """What [`ClipTransform`] does to training clips."""
    mixing = None
    if data_args.mixup_alpha or data_args.cutmix_alpha:
        mixing = ClipMixing(data_args.mixup_alpha, data_args.cutmix_alpha)
    augmentation = data_args.make_augmentation(processor)
    return {"augmentation": augmentation, "mixing": mixing, "num_repeats": data_args.num_repeats}


@dataclass
class Data:
    """What is trained and evaluated on."""

    class_names: list[str]
    splits: dict[str, Dataset]
    epoch_aware: ClipTransform | CachedClips  # draws anew in each epoch
    is_multi_label: bool
    # Of each split: what is not on disk, what is known to be bad and why, and what turns out to be bad.
    missing: dict[str, list[str]] = field(default_factory=dict)
    bad: dict[str, dict[str, str]] = field(default_factory=dict)
    skipped: dict[str, SkippedVideos] = field(default_factory=dict)

    def report_coverage(self) -> dict[str, dict]:
        """How much of each split was used, and what was not."""
        report = {}
        for split in self.splits:
            bad = [{"video": name, "reason": why, "times": 0} for name, why in self.bad.get(split, {}).items()]
            num_videos = self.count_videos(split)
            num_videos = None if num_videos is None else num_videos + len(bad)
            damaged = bad + (self.skipped[split].summarize() if split in self.skipped else [])
            report[split] = report_coverage(num_videos, self.missing.get(split, []), damaged)
        return report

    def count_videos(self, split: str) -> int | None:
        """Videos of a data set; `None` if it is a stream."""
        return None if isinstance(self.splits[split], datasets.IterableDataset) else len(self.splits[split])

    def check_coverage(self, min_coverage: float):
        """Makes sure that enough videos are left of each split."""
        for split in self.splits:
            num_videos, num_left_out = self.count_videos(split), self.count_left_out(split)
            if num_videos is not None:
                check_coverage(num_videos, num_videos + num_left_out, min_coverage, f"videos of {split}")

    def count_left_out(self, split: str) -> int:
        """Videos that were annotated, but are no part of the data set."""
        return len(self.missing.get(split, [])) + len(self.bad.get(split, {}))


def load_data(data_args: DataArguments, training_args: TrainingArguments, processor: VTNVideoProcessor) -> Data:
    """The splits to train and to evaluate on."""
    if data_args.features is not None:
        return load_features(data_args, training_args)
    return load_videos(data_args, training_args, processor)


def load_features(data_args: DataArguments, training_args: TrainingArguments) -> Data:
    """Those of cached features."""
    index = CacheIndex.load(data_args.features)
    in_time = TimeAugmentation(data_args.min_time_share, data_args.frame_drop_prob, tuple(data_args.speed_range))
    clips = CachedClips(
        data_args.features,
        "train",
        data_args.clip_num_frames,
        data_args.clip_duration_sec,
        training_args.seed,
        time_augmentation=None if in_time == TimeAugmentation() else in_time,
        feature_drop_prob=data_args.feature_drop_prob,
        mixup_alpha=data_args.mixup_alpha,
    )
    splits = {"train": clips}
    if index.splits.get("val"):
        splits["val"] = CachedClips(data_args.features, "val")
    elif training_args.eval_strategy != "no":
        raise ValueError(
            f"{data_args.features} has no val split to evaluate on: extract with --val_share 0.2, which holds a "
            "fifth of train out, or give --eval_strategy no."
        )
    bad = {split: index.bad.get(split, {}) | cached.skipped for split, cached in splits.items()}
    return Data(index.class_names, splits, clips, clips.labels.ndim == 2, index.missing, bad)


def load_videos(data_args: DataArguments, training_args: TrainingArguments, processor: VTNVideoProcessor) -> Data:
    """Those of a collection."""
    class_names = data_args.class_names and read_class_names(data_args.class_names)
    collection = data_args.read(class_names, streams_shards=True)
    if training_args.process_index == 0:
        print(collection.describe())
    collection.check_training(needs_val=training_args.eval_strategy != "no")
    if isinstance(collection.videos["train"], datasets.IterableDataset):
        check_stream(training_args)
    videos, class_names, is_multi_label = collection.videos, collection.class_names, collection.is_multi_label
    changes = change_clips(data_args, processor)
    if processor.pixel_protocol != "pyslowfast":
        # Workers ship bytes, a quarter of floats; the trainer normalises them on the device.
        processor = processor.to_uint8_processor()
    transforms, splits, skipped = {}, {}, {}
    for split in ("train", "val"):
        if collection.num_videos.get(split, 0) == 0:
            continue
        skipped[split] = SkippedVideos(Path(training_args.output_dir, f"skipped_{split}.jsonl"))
        needs_vectors = is_multi_label or (split == "train" and changes["mixing"] is not None)
        settings = {"num_labels": len(class_names) if needs_vectors else None, "skipped": skipped[split]}
        if split == "train":
            settings |= {"num_frames": data_args.clip_num_frames, "clip_duration_sec": data_args.clip_duration_sec}
            settings |= {"seed": training_args.seed, **changes}
        transforms[split] = ClipTransform(processor, **settings)
        splits[split] = apply_transform(videos[split], transforms[split], training_args)
    return Data(class_names, splits, transforms["train"], is_multi_label, collection.missing, collection.bad, skipped)


def check_stream(training_args: TrainingArguments):
    """Refuses what needs to know the number of training videos beforehand."""
    if training_args.max_steps <= 0:
        raise ValueError(
            "The training videos are streamed, so that nobody knows how many steps an epoch has: give --max_steps."
        )
    names = ("eval_strategy", "save_strategy", "logging_strategy")
    by_epoch = [f"--{name}" for name in names if getattr(training_args, name) == "epoch"]
    if training_args.world_size > 1 and by_epoch:
        raise ValueError(
            "The training videos are streamed, and each process comes to the end of its own at another step: give "
            f"steps, not epoch, for {' and '.join(by_epoch)}."
        )


def apply_transform(
    videos: datasets.Dataset | datasets.IterableDataset,
    transform: ClipTransform,
    training_args: TrainingArguments,
) -> Dataset:
    """Decodes videos when they are needed."""
    if isinstance(videos, datasets.Dataset):
        return videos.with_transform(transform)
    # Each process and worker reads shards of its own, in random order; videos of a shard are mixed a little.
    training_args.accelerator_config.dispatch_batches = False
    videos = videos.shuffle(seed=training_args.seed, buffer_size=100)
    batch_size = training_args.per_device_train_batch_size
    return videos.map(transform, batched=True, batch_size=batch_size, remove_columns=videos.column_names)
