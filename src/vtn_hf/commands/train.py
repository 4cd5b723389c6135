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
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.data import Dataset
from transformers import HfArgumentParser, TrainingArguments, set_seed

from .. import VTNForVideoClassification, VTNVideoProcessor
from ..configs import find_config
from ..data.clips import collate_videos
from ..data.feature_cache import CachedClips, FeatureCacheInfo
from ..inference.attention import Look, look_at_example
from ..inference.whole_video import to_scores
from ..outputs import check_outputs
from ..processes import together
from ..training.arguments import VTNTrainingArguments
from ..training.early_stopping import StopEarly
from ..training.metrics import compute_average_precision, compute_top_accuracy, keep_logits
from ..training.min_coverage import CheckCoverage
from ..training.report import Evaluation, write_report
from ..training.runs import Run, describe_run
from ..training.trainer import SetEpoch, VTNTrainer
from .console import CommandParser, command
from .pixel_arguments import PixelArguments
from .training_arguments import (
    ComputeArguments,
    DataArguments,
    ModelArguments,
    complete_arguments,
    make_model,
    make_processor,
)
from .training_data import Data, load_data


# Arguments that name what the run is made from.
SOURCES = ("model", "backbone_name_or_path", "data_dir", "features")


def make_parser() -> CommandParser:
    """Its own options, then those of transformers."""
    parser = CommandParser("train", __doc__)
    parser.add_argument(
        "--recipe", help="options to begin with: kinetics400, kinetics400_modern, cached_features or a .yaml file"
    )
    parser.add_fields(ModelArguments, "what to train, one of the first three")
    names = {"data_dir", "dataset_name", *DataArguments.__annotations__}
    parser.add_fields(DataArguments, "what to train on: data_dir, dataset_name or features", names)
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
        "dataset": data_args.dataset_name or Path(data_args.data_dir or data_args.features).name,
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
