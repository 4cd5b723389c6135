"""
Trains a Video Transformer Network on a folder of videos, or on what `vtn extract` made of one.

    vtn train --data_dir VIDEOS --backbone_name_or_path facebook/dinov2-small --output_dir RUN
    vtn train --features FEATURES --recipe cached_features --output_dir RUN
    accelerate launch --num_processes 4 -m vtn_hf.commands.train --recipe kinetics400 --data_dir k400 --output_dir RUN

Options override those of the recipe. RUN holds weights, configuration, processors, a model card and a report, and
loads with `pipeline("video-classification", model=RUN)`. Stopped, the same command goes on from the last checkpoint.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from torch.utils.data import Dataset
from transformers import AutoConfig, HfArgumentParser, TrainingArguments, set_seed

from .. import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from ..configs import find_config
from ..data.arguments import CollectionArguments
from ..data.augmentation import ClipMixing
from ..data.class_names import read_class_names
from ..data.clips import ClipTransform, collate_videos
from ..data.coverage import SkippedVideos, report_coverage
from ..data.feature_cache import CachedClips, CacheIndex, FeatureCacheInfo
from ..data.time_augmentation import TimeAugmentation
from ..inference.attention import Look, look_at_example
from ..inference.whole_video import to_scores
from ..outputs import check_outputs
from ..processes import together
from ..training.arguments import VTNTrainingArguments
from ..training.checkpoints import load_to_fine_tune
from ..training.early_stopping import StopEarly
from ..training.metrics import compute_average_precision, compute_top_accuracy, keep_logits
from ..training.min_coverage import CheckCoverage, check_coverage
from ..training.report import Evaluation, write_report
from ..training.runs import Run, describe_run
from ..training.trainer import SetEpoch, VTNTrainer
from .arguments import HELP, DTypeName, check_shared_device
from .console import CommandParser, command
from .pixel_arguments import PixelArguments


# Arguments that name what the run is made from.
SOURCES = ("model", "backbone_name_or_path", "data_dir", "features")
# How cached features are changed in training.
FOR_FEATURES = ("min_time_share", "frame_drop_prob", "speed_range", "feature_drop_prob")


@dataclass
class ModelArguments:
    """What to train. Give one of the three."""

    model: str | None = field(default=None, metadata={"help": f"{HELP['model']}, to fine-tune"})
    backbone_name_or_path: str | None = field(
        default=None, metadata={"help": "a pretrained image model for a new VTN: a folder, or a repository on the Hub"}
    )
    model_config: str | None = field(
        default=None,
        metadata={
            "help": "fields of VTNConfig, as JSON, in a .json file or by a name such as r50_vtn: alone, a VTN with "
            "random weights; else overrides"
        },
    )
    freeze_backbone: bool = field(default=False, metadata={"help": "train the temporal encoder and the head only"})


@dataclass(kw_only=True)
class DataArguments(PixelArguments, CollectionArguments):
    """What to train on."""

    class_names: str | None = field(default=None, metadata={"help": HELP["class_names"]})
    features: str | None = field(
        default=None,
        metadata={"help": "instead of data_dir: what vtn extract made of one; trains all but the backbone"},
    )
    clip_num_frames: list[int] | None = field(
        default=None,
        metadata={
            "help": "frames of a training clip, or the least and the greatest number of them; default: 16 of a video, "
            "all of cached features"
        },
    )
    clip_duration_sec: float | None = field(
        default=None, metadata={"help": "seconds that a training clip covers; default: the whole video"}
    )
    min_time_share: float = field(
        default=1.0,
        metadata={"help": "of cached features: least share of a video that an epoch sees, anywhere"},
    )
    frame_drop_prob: float = field(
        default=0.0, metadata={"help": "of cached features: probability of leaving a frame out"}
    )
    speed_range: list[float] = field(
        default_factory=lambda: [1.0, 1.0],
        metadata={"help": "of cached features: least and greatest factor of the speed"},
    )
    feature_drop_prob: float = field(
        default=0.0, metadata={"help": "of cached features: probability of leaving a feature out, in all frames alike"}
    )
    mixup_alpha: float = field(default=0.0, metadata={"help": "blends clips of a batch; 0 is off, 0.8 is usual"})
    cutmix_alpha: float = field(default=0.0, metadata={"help": "puts parts of clips into others; 1.0 is usual"})
    num_repeats: int = field(
        default=1, metadata={"help": "clips per video and step: a batch holds so many times its number of videos"}
    )
    min_coverage: float = field(default=0.5, metadata={"help": HELP["min_coverage"]})

    def __post_init__(self):
        if isinstance(self.clip_num_frames, list):
            if len(self.clip_num_frames) not in (1, 2):
                raise ValueError(f"--clip_num_frames takes one number or two, got {self.clip_num_frames}.")
            least, *greatest = self.clip_num_frames
            self.clip_num_frames = (least, *greatest) if greatest else least


@dataclass
class ComputeArguments:
    """How to compute, by the names that all commands have; [`apply`] says what transformers calls it."""

    device: str | None = field(default=None, metadata={"help": HELP["device"]})
    dtype: DTypeName | None = field(default=None, metadata={"help": HELP["dtype"]})
    num_workers: int | None = field(default=None, metadata={"help": HELP["num_workers"]})

    @staticmethod
    def apply(options: dict[str, Any]):
        """Turns them into fields of `TrainingArguments`."""
        device, dtype, num_workers = (options.pop(name) for name in ("device", "dtype", "num_workers"))
        if device is not None:
            options["use_cpu"] = check_shared_device(device).type == "cpu"
        if dtype is not None:
            options |= {"bf16": dtype == "bfloat16", "fp16": dtype == "float16"}
        if num_workers is not None:
            options["dataloader_num_workers"] = num_workers


def make_parser() -> CommandParser:
    """Its own options, then those of transformers."""
    parser = CommandParser("train", __doc__)
    parser.add_argument(
        "--recipe", help="options to begin with: kinetics400, kinetics400_modern, cached_features or a .yaml file"
    )
    parser.add_fields(ModelArguments, "what to train, one of the first three")
    names = {"data_dir", *DataArguments.__annotations__}
    parser.add_fields(DataArguments, "what to train on, data_dir or features", names)
    parser.add_fields(DataArguments, "frames and pictures", PixelArguments.__annotations__)
    parser.add_fields(DataArguments, "the collection")
    parser.add_fields(VTNTrainingArguments, "the run", {"output_dir", "seed", *VTNTrainingArguments.__annotations__})
    parser.add_fields(ComputeArguments, "how to compute")
    parser.add_fields(VTNTrainingArguments, "transformers.TrainingArguments")
    return parser


def parse_arguments(arguments: list[str] | None) -> tuple[ModelArguments, DataArguments, VTNTrainingArguments]:
    """Reads options; those of a recipe come first."""
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--recipe")
    known, arguments = before.parse_known_args(arguments)
    if known.recipe is not None:
        arguments = read_recipe(known.recipe) + arguments
    options = vars(make_parser().parse_args(arguments))
    ComputeArguments.apply(options)
    parser = HfArgumentParser((ModelArguments, DataArguments, VTNTrainingArguments))
    return parser.parse_dict(options, allow_extra_keys=True)


def read_recipe(name: str) -> list[str]:
    """The options in a recipe, as on a command line."""
    path = find_config("recipes", name)
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold options by their names, got {settings!r:.100}.")
    options = []
    for option, value in settings.items():
        values = value if isinstance(value, list) else [value]
        values = [json.dumps(each) if isinstance(each, dict) else str(each) for each in values]
        options += [f"--{option}", *values]
    return options


def make_processor(model_args: ModelArguments, data_args: DataArguments) -> VTNVideoProcessor:
    """The processor that the features were made with, or that of the model or of its backbone."""
    if data_args.features is not None:
        return VTNVideoProcessor.from_dict(FeatureCacheInfo.load(data_args.features).processor)
    return data_args.make_processor(model_args.model, model_args.backbone_name_or_path)


def make_model(model_args: ModelArguments, data_args: DataArguments, labels: list[str]) -> VTNForVideoClassification:
    """A VTN for the given classes."""
    settings = model_args.model_config or "{}"
    if not settings.lstrip().startswith("{"):
        settings = find_config("models", settings).read_text(encoding="utf-8")
    if data_args.features is not None and (grid := FeatureCacheInfo.load(data_args.features).frame_grid):
        settings = json.dumps({"frame_grid": grid} | json.loads(settings))
    settings = json.loads(settings) | {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    if model_args.model is not None:
        return load_to_fine_tune(model_args.model, **settings)
    if model_args.backbone_name_or_path is not None:
        return VTNForVideoClassification.from_backbone_pretrained(model_args.backbone_name_or_path, **settings)
    if model_args.model_config is None:
        raise ValueError("Give one of --model, --backbone_name_or_path and --model_config.")
    return VTNForVideoClassification(VTNConfig(**settings))


def complete_arguments(model_args: ModelArguments, data_args: DataArguments):
    """Checks that there is one source of data; where that is cached features, it says which model they belong to."""
    if (data_args.data_dir is None) == (data_args.features is None):
        raise ValueError("Give one of --data_dir and --features.")
    defaults = DataArguments()
    changed = [name for name in vars(data_args) if getattr(data_args, name) != getattr(defaults, name)]
    if data_args.features is None:
        for name in FOR_FEATURES:
            if name in changed:
                raise ValueError(f"--{name} changes cached features; leave it out, or give --features.")
        data_args.clip_num_frames = data_args.clip_num_frames or 16
        return
    for name in changed:
        if name not in ("features", "clip_num_frames", "clip_duration_sec", "mixup_alpha", *FOR_FEATURES):
            raise ValueError(
                f"--{name} changes pixels or labels, but the features are computed already; leave it out."
            )
    model_args.freeze_backbone = True
    if model_args.model is None and model_args.backbone_name_or_path is None:
        name = FeatureCacheInfo.load(data_args.features).backbone_name_or_path
        if AutoConfig.from_pretrained(name).model_type == "vtn":
            model_args.model = name
        else:
            model_args.backbone_name_or_path = name


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
    seed = training_args.seed
    if data_args.features is not None:
        index = CacheIndex.load(data_args.features)
        in_time = TimeAugmentation(data_args.min_time_share, data_args.frame_drop_prob, tuple(data_args.speed_range))
        clips = CachedClips(
            data_args.features,
            "train",
            data_args.clip_num_frames,
            data_args.clip_duration_sec,
            seed,
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
    class_names = data_args.class_names and read_class_names(data_args.class_names)
    collection = data_args.read(class_names, streaming=True)
    if training_args.process_index == 0:
        print(collection.describe())
    collection.check_training(needs_val=training_args.eval_strategy != "no")
    videos, class_names, is_multi_label = collection.videos, collection.class_names, collection.is_multi_label
    changes = change_clips(data_args, processor)
    if processor.pixel_protocol != "pyslowfast":
        # Workers ship bytes, a quarter of floats; the trainer normalises them on the device.
        processor = processor.to_uint8_processor()
    transforms, splits, skipped = {}, {}, {}
    for split in ("train", "val"):
        if not collection.num_videos.get(split):
            continue
        skipped[split] = SkippedVideos(Path(training_args.output_dir, f"skipped_{split}.jsonl"))
        needs_vectors = is_multi_label or (split == "train" and changes["mixing"] is not None)
        settings = {"num_labels": len(class_names) if needs_vectors else None, "skipped": skipped[split]}
        if split == "train":
            settings |= {"num_frames": data_args.clip_num_frames, "clip_duration_sec": data_args.clip_duration_sec}
            settings |= {"seed": seed, **changes}
        transforms[split] = ClipTransform(processor, **settings)
        splits[split] = apply_transform(videos[split], transforms[split], training_args)
    return Data(class_names, splits, transforms["train"], is_multi_label, collection.missing, collection.bad, skipped)


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


def evaluate(trainer: VTNTrainer, data: Data, train_metrics: dict[str, float]):
    """Evaluates on whole videos, and writes down how it went."""
    evaluation = trainer.predict(data.splits["val"], metric_key_prefix="eval")
    trainer.log(evaluation.metrics)
    trainer.log_metrics("eval", evaluation.metrics)
    trainer.save_metrics("eval", evaluation.metrics)
    if not trainer.is_world_process_zero():
        return
    videos = data.splits["val"]
    names = videos.paths if isinstance(videos, CachedClips) else videos.with_format(None)["name"][:]
    scores = to_scores(trainer.model, torch.from_numpy(evaluation.predictions).float()).numpy()
    page = write_report(
        Path(trainer.args.output_dir, "report"),
        Evaluation(data.class_names, names, evaluation.label_ids, scores),
        trainer.state.log_history,
        evaluation.metrics | train_metrics,
        data.report_coverage(),
        make_look(trainer, videos),
    )
    print(f"Curves, confusion matrix, classes and videos: {page}")


def make_look(trainer: VTNTrainer, videos: Dataset) -> Callable[[int], Look] | None:
    """What the report shows of a video, by the saved model: the trainer's may be in parts on several devices."""
    if not isinstance(trainer.accelerator.unwrap_model(trainer.model), VTNForVideoClassification):
        return None
    model = VTNForVideoClassification.from_pretrained(trainer.args.output_dir).to(trainer.args.device)
    return partial(look_at_example, model, trainer.processing_class, videos)


def write_coverage(path: Path, report: dict[str, dict]):
    """Lists the videos that were not used, and says how many they are."""
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for split, part in report.items():
        coverage = "" if part["coverage"] is None else f" {part['coverage']:.1%} of {part['annotated']:,} videos used,"
        missing, damaged = len(part["missing"]), len(part["damaged"])
        print(f"{split}:{coverage} {missing:,} missing, {damaged:,} damaged; listed in {path}")


def make_trainer(
    model: VTNForVideoClassification,
    processor: VTNVideoProcessor,
    data: Data,
    training_args: TrainingArguments,
    min_coverage: float,
) -> VTNTrainer:
    """Puts model and data together."""
    model.config.num_frames = processor.num_frames
    model.config.problem_type = f"{'multi' if data.is_multi_label else 'single'}_label_classification"
    # The videos are decoded in the worker that uses them, from columns that the model does not know.
    training_args.remove_unused_columns = False
    # Torch warns, at each loader, of pinned memory where there is no accelerator.
    training_args.dataloader_pin_memory &= training_args.device.type != "cpu"
    compute_metrics = compute_average_precision if data.is_multi_label else compute_top_accuracy
    callbacks = [SetEpoch(data.epoch_aware)]
    if "train" in data.skipped:
        num_videos = data.count_videos("train")
        callbacks.append(CheckCoverage(data.skipped["train"], num_videos, data.count_left_out("train"), min_coverage))
    if training_args.early_stopping is not None:
        callbacks.append(StopEarly(training_args.early_stopping))
    return VTNTrainer(
        model=model,
        args=training_args,
        train_dataset=data.splits["train"],
        eval_dataset=data.splits.get("val"),
        data_collator=collate_videos,
        processing_class=processor,
        compute_metrics=partial(compute_metrics, num_missing=data.count_left_out("val"), min_coverage=min_coverage),
        preprocess_logits_for_metrics=keep_logits,
        callbacks=callbacks,
    )


def complete(trainer: VTNTrainer, data: Data, checkpoint: str | None):
    """Trains, from a checkpoint on or from the start, and writes the results."""
    model = trainer.model
    print(f"Training {model.num_parameters(only_trainable=True):,} of {model.num_parameters():,} parameters.")
    if checkpoint is None:
        for skipped in data.skipped.values():
            skipped.clear()
    else:
        print(f"Going on from {checkpoint}; --overwrite begins anew.")
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    if "val" in data.splits:
        evaluate(trainer, data, result.metrics)
    if trainer.is_world_process_zero():
        write_coverage(Path(trainer.args.output_dir, "coverage.json"), data.report_coverage())
    trainer.save_state()


def write_card(trainer: VTNTrainer, model_args: ModelArguments, data_args: DataArguments):
    """Writes the model card, and pushes everything to the Hub if that is wanted."""
    card = {
        "dataset": Path(data_args.data_dir or data_args.features).name,
        "base_model": model_args.model or model_args.backbone_name_or_path,
    }
    if trainer.args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.create_model_card(**card)


def begin_run(run: Run, trainer: VTNTrainer, data: Data, arguments: dict[str, Any]):
    """Remembers in the folder of the run what it is made with, or compares it with what is remembered there."""
    if trainer.is_world_process_zero():
        settings, notes = describe_run(trainer, data.class_names, data.splits, arguments)
        for change in run.begin(settings, notes, trainer.args.overwrite):
            print(f"Going on, although {change}.")
    trainer.accelerator.wait_for_everyone()


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: VTNTrainingArguments,
    make_model: Callable = make_model,
) -> VTNTrainer | None:
    """Trains, evaluates on whole videos and saves; returns the trainer, or nothing if all was done already."""
    arguments = vars(model_args) | vars(data_args)
    run = Run(training_args.output_dir)
    run.check_sources({name: arguments[name] for name in SOURCES})
    check_outputs([run.folder], filter(None, (data_args.data_dir, data_args.features)), overwrite=True)
    set_seed(training_args.seed)
    with run.locked() if training_args.process_index == 0 else contextlib.nullcontext():
        complete_arguments(model_args, data_args)
        processor = make_processor(model_args, data_args)
        data = load_data(data_args, training_args, processor)
        data.check_coverage(data_args.min_coverage)
        model = make_model(model_args, data_args, data.class_names)
        if data_args.features is not None:
            FeatureCacheInfo.load(data_args.features).check(model.vtn)
        if model_args.freeze_backbone:
            model.freeze_backbone()
        trainer = make_trainer(model, processor, data, training_args, data_args.min_coverage)
        begin_run(run, trainer, data, arguments)
        if run.is_finished:
            print(f"{run.folder} is finished; nothing is left to do. --overwrite begins anew.")
            return None
        complete(trainer, data, run.find_checkpoint(training_args.resume_from_checkpoint))
        write_card(trainer, model_args, data_args)
        if trainer.is_world_process_zero():
            run.finish()
    return trainer


@command("train")
def main(argv: list[str] | None = None):
    """Trains as the arguments say."""
    arguments = parse_arguments(argv)
    with together():
        train(*arguments)


if __name__ == "__main__":
    sys.exit(main())
