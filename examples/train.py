"""
Trains a Video Transformer Network on a folder of videos, ROOT/{train,val}/CLASS/VIDEO, or on what
`extract_features.py` made of one.

    accelerate launch examples/train.py --data_dir ROOT --backbone_name_or_path facebook/dinov2-small --output_dir RUN
    accelerate launch examples/train.py examples/configs/quickstart.yaml --data_dir ROOT --output_dir RUN
    accelerate launch examples/train.py --features FEATURES --output_dir RUN

Arguments are flags, or a yaml file with flags after it that override it; they are the fields of the two dataclasses
below and those of transformers' `TrainingArguments`. The output directory holds weights, configuration, both
processors and a model card, and loads with `pipeline("video-classification", model=RUN)`. A run that was stopped goes
on from its last checkpoint when the same command is given again.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from torch.utils.data import Dataset
from transformers import AutoConfig, HfArgumentParser, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.data.clips import ClipTransform, collate_videos
from vtn_hf.data.feature_cache import CachedClips, FeatureCacheInfo
from vtn_hf.data.kinetics import load_class_folders
from vtn_hf.training.metrics import compute_top_accuracy, keep_top_classes
from vtn_hf.training.report import write_report
from vtn_hf.training.trainer import SetEpoch, VTNTrainer


@dataclass
class ModelArguments:
    """What to train. Give one of the three."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A VTN to fine-tune: a directory or a repository on the Hub."}
    )
    backbone_name_or_path: str | None = field(
        default=None, metadata={"help": "A pretrained image backbone for a new VTN: a directory or a repository."}
    )
    model_config: str | None = field(
        default=None,
        metadata={
            "help": "Fields of VTNConfig, as JSON or in a JSON file: alone, a VTN with random weights; else overrides."
        },
    )
    freeze_backbone: bool = field(default=False, metadata={"help": "Train the temporal encoder and the head only."})


@dataclass
class DataArguments:
    """What to train on."""

    data_dir: str | None = field(default=None, metadata={"help": "Folder with train/CLASS/VIDEO and val/CLASS/VIDEO."})
    features: str | None = field(
        default=None,
        metadata={"help": "Instead of data_dir: what extract_features.py made of one; trains all but the backbone."},
    )
    clip_num_frames: int | None = field(
        default=None, metadata={"help": "Frames of a training clip; default: 16 of a video, all of cached features."}
    )
    clip_duration_sec: float | None = field(
        default=None, metadata={"help": "Seconds that a training clip covers; default: the whole video."}
    )
    eval_num_frames: int | None = field(
        default=None, metadata={"help": "Frames of a whole video at evaluation, at most; default: 250."}
    )
    resize_to: list[int] | None = field(
        default=None, metadata={"help": "Pixels of the short side after resizing, or of height and width."}
    )
    crop_size: int | None = field(default=None, metadata={"help": "Pixels of the square centre crop."})


def parse_arguments(arguments: list[str]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Reads flags, or a yaml file and the flags that override it."""
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        settings = yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8"))
        from_file = []
        for name, value in settings.items():
            values = value if isinstance(value, list) else [value]
            from_file += [
                f"--{name}",
                *(json.dumps(value) if isinstance(value, dict) else str(value) for value in values),
            ]
        arguments = from_file + arguments[1:]
    return HfArgumentParser((ModelArguments, DataArguments, TrainingArguments)).parse_args_into_dataclasses(arguments)


def make_processor(model_args: ModelArguments, data_args: DataArguments) -> VTNVideoProcessor:
    """The processor of the model or of its backbone, with what the arguments override."""
    if data_args.features is not None:
        return VTNVideoProcessor.from_dict(FeatureCacheInfo.load(data_args.features).processor)
    overrides = {"num_frames": data_args.eval_num_frames or 250}
    if data_args.resize_to is not None:
        names = ("shortest_edge",) if len(data_args.resize_to) == 1 else ("height", "width")
        overrides["size"] = dict(zip(names, data_args.resize_to, strict=True))
    if data_args.crop_size is not None:
        overrides["crop_size"] = {"height": data_args.crop_size, "width": data_args.crop_size}
    if model_args.model_name_or_path is not None:
        return VTNVideoProcessor.from_pretrained(model_args.model_name_or_path, **overrides)
    if model_args.backbone_name_or_path is not None:
        return VTNVideoProcessor.from_backbone_pretrained(model_args.backbone_name_or_path, **overrides)
    return VTNVideoProcessor(**overrides)


def make_model(model_args: ModelArguments, data_args: DataArguments, labels: list[str]) -> VTNForVideoClassification:
    """A VTN for the given classes."""
    fields = model_args.model_config or "{}"
    if fields.endswith(".json"):
        fields = Path(fields).read_text(encoding="utf-8")
    fields = json.loads(fields) | {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    if model_args.model_name_or_path is not None:
        return VTNForVideoClassification.from_pretrained(
            model_args.model_name_or_path, ignore_mismatched_sizes=True, **fields
        )
    if model_args.backbone_name_or_path is not None:
        return VTNForVideoClassification.from_backbone_pretrained(model_args.backbone_name_or_path, **fields)
    if model_args.model_config is None:
        raise ValueError("Give one of --model_name_or_path, --backbone_name_or_path and --model_config.")
    return VTNForVideoClassification(VTNConfig(**fields))


def find_checkpoint(training_args: TrainingArguments) -> str | None:
    """The checkpoint to go on from: the one asked for, else the last one that an earlier call of the command left."""
    checkpoint = training_args.resume_from_checkpoint
    if checkpoint is None and Path(training_args.output_dir).is_dir():
        checkpoint = get_last_checkpoint(training_args.output_dir)
    if checkpoint is not None:
        print(f"Going on from {checkpoint}; to start anew, choose another --output_dir.")
    return checkpoint


def complete_arguments(model_args: ModelArguments, data_args: DataArguments):
    """Checks that there is one source of data; where that is cached features, it says which model they belong to."""
    if (data_args.data_dir is None) == (data_args.features is None):
        raise ValueError("Give one of --data_dir and --features.")
    if data_args.features is None:
        data_args.clip_num_frames = data_args.clip_num_frames or 16
        return
    for name in ("eval_num_frames", "resize_to", "crop_size"):
        if getattr(data_args, name) is not None:
            raise ValueError(f"--{name} was fixed when the features were computed; leave it out.")
    model_args.freeze_backbone = True
    if model_args.model_name_or_path is None and model_args.backbone_name_or_path is None:
        name = FeatureCacheInfo.load(data_args.features).backbone_name_or_path
        if AutoConfig.from_pretrained(name).model_type == "vtn":
            model_args.model_name_or_path = name
        else:
            model_args.backbone_name_or_path = name


def load_data(
    data_args: DataArguments, processor: VTNVideoProcessor, seed: int
) -> tuple[list[str], dict[str, Dataset], ClipTransform | CachedClips]:
    """The class names, the splits, and what must know the epoch."""
    if data_args.features is not None:
        info = FeatureCacheInfo.load(data_args.features)
        clips = CachedClips(data_args.features, "train", data_args.clip_num_frames, data_args.clip_duration_sec, seed)
        splits = {split: CachedClips(data_args.features, split) for split in info.num_videos if split != "train"}
        return info.class_names, {"train": clips, **splits}, clips
    videos = load_class_folders(data_args.data_dir)
    transform = ClipTransform(processor, data_args.clip_num_frames, data_args.clip_duration_sec, seed)
    splits = {
        split: rows.with_transform(transform if split == "train" else ClipTransform(processor))
        for split, rows in videos.items()
    }
    return videos["train"].features["label"].names, splits, transform


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    make_model: Callable = make_model,
) -> VTNTrainer:
    """Trains, evaluates on whole videos and saves; returns the trainer."""
    set_seed(training_args.seed)
    complete_arguments(model_args, data_args)
    processor = make_processor(model_args, data_args)
    labels, videos, epoch_aware = load_data(data_args, processor, training_args.seed)
    # The videos are decoded in the worker that uses them, from columns that the model does not know.
    training_args.remove_unused_columns = False
    model = make_model(model_args, data_args, labels)
    model.config.num_frames = processor.num_frames
    if data_args.features is not None:
        FeatureCacheInfo.load(data_args.features).check(model.vtn.backbone)
    if model_args.freeze_backbone:
        model.freeze_backbone()
    print(f"Training {model.num_parameters(only_trainable=True):,} of {model.num_parameters():,} parameters.")
    trainer = VTNTrainer(
        model=model,
        args=training_args,
        train_dataset=videos["train"],
        eval_dataset=videos.get("val"),
        data_collator=collate_videos,
        processing_class=processor,
        compute_metrics=compute_top_accuracy,
        preprocess_logits_for_metrics=keep_top_classes,
        callbacks=[SetEpoch(epoch_aware)],
    )
    result = trainer.train(resume_from_checkpoint=find_checkpoint(training_args))
    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    if "val" in videos:
        evaluation = trainer.predict(videos["val"], metric_key_prefix="eval")
        trainer.log(evaluation.metrics)
        trainer.log_metrics("eval", evaluation.metrics)
        trainer.save_metrics("eval", evaluation.metrics)
        if trainer.is_world_process_zero():
            report = Path(training_args.output_dir, "report")
            metrics = result.metrics | evaluation.metrics
            write_report(
                report, trainer.state.log_history, labels, evaluation.label_ids, evaluation.predictions[:, 0], metrics
            )
            print(f"Curves, confusion matrix and classes: {report}/report.md")
    trainer.save_state()
    card = {
        "dataset": Path(data_args.data_dir or data_args.features).name,
        "base_model": model_args.model_name_or_path or model_args.backbone_name_or_path,
    }
    if training_args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.create_model_card(**card)
    return trainer


if __name__ == "__main__":
    train(*parse_arguments(sys.argv[1:]))
