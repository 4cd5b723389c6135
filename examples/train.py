"""
Trains a Video Transformer Network on a folder of videos, such as Kinetics: ROOT/{train,val}/CLASS/VIDEO.

    accelerate launch examples/train.py --data_dir ROOT --backbone_name_or_path facebook/dinov2-small \
        --output_dir RUN --num_train_epochs 10 --per_device_train_batch_size 8 --eval_strategy epoch
    accelerate launch examples/train.py examples/configs/quickstart.yaml --data_dir ROOT --output_dir RUN

To copy and to change. Options are those below and transformers' `TrainingArguments`, also in a yaml file. Stopped, the
same command goes on. `vtn train` adds augmentation, cached features, several labels per video and a report.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml
from transformers import HfArgumentParser, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.data.clips import ClipTransform, collate_videos
from vtn_hf.data.collection import read_collection
from vtn_hf.data.coverage import SkippedVideos
from vtn_hf.training.metrics import compute_top_accuracy, keep_logits
from vtn_hf.training.trainer import SetEpoch, VTNTrainer


@dataclass
class Arguments:
    data_dir: str
    backbone_name_or_path: str | None = None  # a pretrained image model; without it, random weights by model_config
    model_config: str = "{}"  # fields of VTNConfig, as JSON
    clip_num_frames: int = 16  # of a training clip
    num_frames: int = 250  # of a whole video, in evaluation
    resize_to: int | None = None  # pixels of the short side
    crop_size: int | None = None  # pixels of the square centre crop


def parse_arguments(argv: list[str]) -> tuple[Arguments, TrainingArguments]:
    if argv and argv[0].endswith(".yaml"):
        settings = yaml.safe_load(Path(argv[0]).read_text(encoding="utf-8"))
        texts = {
            name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in settings.items()
        }
        argv = [part for name, text in texts.items() for part in (f"--{name}", text)] + argv[1:]
    return HfArgumentParser((Arguments, TrainingArguments)).parse_args_into_dataclasses(argv)


def make_model(args: Arguments, class_names: list[str]) -> tuple[VTNForVideoClassification, VTNVideoProcessor]:
    fields = json.loads(args.model_config) | {"num_frames": args.num_frames}
    fields["id2label"] = dict(enumerate(class_names))
    fields["label2id"] = {name: number for number, name in enumerate(class_names)}
    settings = {"num_frames": args.num_frames}
    if args.resize_to is not None:
        settings["size"] = {"shortest_edge": args.resize_to}
    if args.crop_size is not None:
        settings["crop_size"] = {"height": args.crop_size, "width": args.crop_size}
    if args.backbone_name_or_path is None:
        return VTNForVideoClassification(VTNConfig(**fields)), VTNVideoProcessor(**settings)
    model = VTNForVideoClassification.from_backbone_pretrained(args.backbone_name_or_path, **fields)
    return model, VTNVideoProcessor.from_backbone_pretrained(args.backbone_name_or_path, **settings)


def main(argv: list[str] | None = None):
    args, training_args = parse_arguments(sys.argv[1:] if argv is None else argv)
    training_args.remove_unused_columns = False  # the videos are decoded in the worker that uses them
    set_seed(training_args.seed)
    output_dir = Path(training_args.output_dir)
    collection = read_collection(args.data_dir)
    collection.check_training(needs_val=training_args.eval_strategy != "no")
    model, processor = make_model(args, collection.class_names)
    # Videos that cannot be decoded are left out, and listed there.
    skipped = {split: SkippedVideos(output_dir / f"skipped_{split}.jsonl") for split in ("train", "val")}
    clips = ClipTransform(processor, args.clip_num_frames, seed=training_args.seed, skipped=skipped["train"])
    splits = {"train": collection.videos["train"].with_transform(clips)}
    if "val" in collection.videos:
        splits["val"] = collection.videos["val"].with_transform(ClipTransform(processor, skipped=skipped["val"]))
    trainer = VTNTrainer(
        model=model,
        args=training_args,
        train_dataset=splits["train"],
        eval_dataset=splits.get("val"),
        data_collator=collate_videos,
        processing_class=processor,
        compute_metrics=compute_top_accuracy,
        preprocess_logits_for_metrics=keep_logits,
        callbacks=[SetEpoch(clips)],
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output_dir))
    trainer.save_model()
    if "val" in splits:
        trainer.save_metrics("eval", trainer.evaluate())
    trainer.create_model_card(dataset=Path(args.data_dir).name, base_model=args.backbone_name_or_path)


if __name__ == "__main__":
    main()
