"""
Trains a Video Transformer Network on a folder of videos, ROOT/{train,val}/CLASS/VIDEO.

    accelerate launch examples/train.py --data_dir ROOT --backbone_name_or_path facebook/dinov2-small --output_dir RUN
    accelerate launch examples/train.py examples/configs/quickstart.yaml --data_dir ROOT --output_dir RUN

Arguments are flags, or a yaml file with flags after it that override it; they are the fields of the two dataclasses
below and those of transformers' `TrainingArguments`. The output directory holds weights, configuration, both
processors and a model card, and loads with `pipeline("video-classification", model=RUN)`.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from datasets import DatasetDict
from transformers import HfArgumentParser, TrainingArguments, set_seed

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.data.clips import ClipTransform, collate_videos
from vtn_hf.data.kinetics import load_class_folders
from vtn_hf.training.metrics import compute_top_accuracy, keep_top_classes
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

    data_dir: str = field(metadata={"help": "Folder with train/CLASS/VIDEO and val/CLASS/VIDEO."})
    clip_num_frames: int = field(default=16, metadata={"help": "Frames of a training clip."})
    clip_duration_sec: float | None = field(
        default=None, metadata={"help": "Seconds that a training clip covers; default: the whole video."}
    )
    eval_num_frames: int = field(default=250, metadata={"help": "Frames of a whole video at evaluation, at most."})
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
    overrides = {"num_frames": data_args.eval_num_frames}
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
        "num_frames": data_args.eval_num_frames,
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


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    make_model: Callable = make_model,
) -> VTNTrainer:
    """Trains, evaluates on whole videos and saves; returns the trainer."""
    set_seed(training_args.seed)
    videos: DatasetDict = load_class_folders(data_args.data_dir)
    labels = videos["train"].features["label"].names
    processor = make_processor(model_args, data_args)
    # The videos are decoded in the worker that uses them, from columns that the model does not know.
    training_args.remove_unused_columns = False
    train_transform = ClipTransform(
        processor, data_args.clip_num_frames, data_args.clip_duration_sec, training_args.seed
    )
    model = make_model(model_args, data_args, labels)
    if model_args.freeze_backbone:
        model.freeze_backbone()
    print(f"Training {model.num_parameters(only_trainable=True):,} of {model.num_parameters():,} parameters.")
    trainer = VTNTrainer(
        model=model,
        args=training_args,
        train_dataset=videos["train"].with_transform(train_transform),
        eval_dataset=videos["val"].with_transform(ClipTransform(processor)) if "val" in videos else None,
        data_collator=collate_videos,
        processing_class=processor,
        compute_metrics=compute_top_accuracy,
        preprocess_logits_for_metrics=keep_top_classes,
        callbacks=[SetEpoch(train_transform)],
    )
    result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    if "val" in videos:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    trainer.save_state()
    card = {
        "dataset": Path(data_args.data_dir).name,
        "base_model": model_args.model_name_or_path or model_args.backbone_name_or_path,
    }
    if training_args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.create_model_card(**card)
    return trainer


if __name__ == "__main__":
    train(*parse_arguments(sys.argv[1:]))
