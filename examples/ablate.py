"""
The paper's ablations on videos that must be seen whole (`drawn_videos.event_videos`), as one grid that can be resumed.

    python examples/ablate.py       # computes features, trains whatever is not there yet, reports

The backbone is that of a VTN trained on short clips (`examples/configs/motion_clips.yaml` says how).

A cell of the grid is a task, a variant of the model and a seed. It trains on cached features of the frozen backbone
and leaves OUTPUT_DIR/cells/<task>/<variant>/seed<n>: the model, its processors and result.json. A stopped run goes on
with the next cell, and several runs share the cells. What is there becomes tables and figures, at the end or with
`--report_only`.

The frames are drawn and go to the backbone as they are, without a video file in between, which would take as long
again; `vtn evaluate` says what a cell's model makes of encoded videos.
"""

import argparse
import json
import multiprocessing
import re
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from ablation_report import write_report
from baselines import FrameAverageClassifier, LSTMClassifier, WindowedClassifier
from frame_backbone import train_backbone
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import Trainer, TrainingArguments, default_data_collator, set_seed
from transformers.modeling_utils import PreTrainedModel

from drawn_videos.drawing import SPLITS, make_generator
from drawn_videos.event_videos import CLASS_NAMES, draw_event_video
from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.data.feature_cache import CachedClips, CacheIndex, FeatureCacheInfo, hash_weights, read_shard, write_shard


# A temporal encoder that learns from 600 videos within a minute; what a variant does not change is this.
ENCODER = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "attention_window": 18,
    # Every frame of these videos has a position of its own.
    "max_position_embeddings": 322,
    "position_embedding_type": "sinusoidal",
    # The usual 0.02 is made for widths of 768 and more.
    "initializer_range": 0.1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.1,
}
TRAINING = {
    "per_device_eval_batch_size": 100,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "weight_decay": 0.05,
    "max_grad_norm": 1.0,
}
# Two shapes that follow on each other take more steps to tell. At a rate of 2e-3 some seeds never did.
TASK_TRAINING = {
    "moment": {"num_train_epochs": 20, "per_device_train_batch_size": 8},
    "order": {"num_train_epochs": 15, "per_device_train_batch_size": 16},
}
# Training and held-out videos.
NUM_VIDEOS = {"moment": (600, 200), "order": (600, 200)}
VIDEOS_PER_SHARD = 100
# Steps of training the backbone on single frames, and videos it is fine-tuned on: minutes each.
BACKBONE_STEPS = 900
FINE_TUNING_VIDEOS = 96
# Multi-view evaluation: the paper's clips of 16 frames over 2.56 s, ten of them spread over the video.
CLIP_NUM_FRAMES, CLIP_SPAN, NUM_CLIPS = 16, 64, 10
# The trade-off: frames per video at inference.
FRAME_COUNTS = (8, 16, 32, 64, 128, 250)


@dataclass(frozen=True)
class Variant:
    """
    What is trained.

    Args:
        fields: What differs from `ENCODER`.
        num_frames: Frames per video, in training and at evaluation.
        span: Length of a training clip in frames of the video; `None` is the whole video.
        model: A VTN or a baseline.
        is_shuffled: Whether the frames come in random order, in training and at evaluation.
        starts_from: The variant whose trained weights this one goes on with, for one epoch.
        trains_backbone: Whether the backbone learns too, from pixels.
        num_videos: Training videos, the first ones; `None` is all.
    """

    fields: dict = field(default_factory=dict)
    num_frames: int = 64
    span: int | None = None
    model: type[PreTrainedModel] = VTNForVideoClassification
    is_shuffled: bool = False
    starts_from: str | None = None
    trains_backbone: bool = False
    num_videos: int | None = None


VARIANTS = {
    "base": Variant(),
    "250 frames": Variant(num_frames=250),
    "250 frames with window 64": Variant({"attention_window": 64}, num_frames=250),
    "250 frames, LSTM": Variant(num_frames=250, model=LSTMClassifier),
    "250 frames, average": Variant(num_frames=250, model=FrameAverageClassifier),
    "clips of 16 over 64": Variant(num_frames=16, span=64),
    "clips of 32 over 64": Variant(num_frames=32, span=64),
    "clips of 16 over 128": Variant(num_frames=16, span=128),
    "clips of 32 over 128": Variant(num_frames=32, span=128),
    "no layer": Variant(model=FrameAverageClassifier),
    "1 layer": Variant({"num_hidden_layers": 1}),
    "3 layers": Variant({"num_hidden_layers": 3}),
    "6 layers": Variant({"num_hidden_layers": 6}),
    "learned positions": Variant({"position_embedding_type": "learned"}),
    "no positions": Variant({"position_embedding_type": "none"}),
    "shuffled": Variant(is_shuffled=True),
    "16 frames": Variant(num_frames=16),
    "32 frames": Variant(num_frames=32),
    "128 frames": Variant(num_frames=128),
    "window 4": Variant({"attention_window": 4}),
    "window 64": Variant({"attention_window": 64}),
    "no global attention": Variant(model=WindowedClassifier),
    "frozen for one epoch more": Variant(starts_from="base", num_videos=FINE_TUNING_VIDEOS),
    "fine-tuned for one epoch more": Variant(starts_from="base", num_videos=FINE_TUNING_VIDEOS, trains_backbone=True),
}


def choose_frames(
    position_ids: np.ndarray, num_frames: int, span: int | None = None, place: float = 0.5, offset: float = 0.5
) -> np.ndarray:
    """
    Chooses frames from a clip, one from each of its `num_frames` equal parts.

    Args:
        position_ids: Which frames of the video there are, (frames,).
        num_frames: Frames to choose.
        span: Length of the clip in frames of the video; `None`, or more than there are, is the whole video.
        place: Where in the video the clip is, from 0 for its start to 1 for its end.
        offset: Where in its part each frame is, from 0 to 1.

    Returns:
        Indices into `position_ids`, (num_frames,), never decreasing.
    """
    length = position_ids[-1] + 1
    span = length if span is None else min(span, length)
    wanted = place * (length - span) + (np.arange(num_frames) + offset) * span / num_frames
    return np.searchsorted(position_ids, wanted, side="right") - 1


class Clips(Dataset):
    """One clip of each video: a random one for training, the central one, or view `place`, for evaluation."""

    def __init__(self, videos: "Videos", variant: Variant, is_training: bool, place: float = 0.5):
        self.videos = videos
        self.variant = variant
        self.is_training = is_training
        self.place = place

    def __len__(self) -> int:
        num_videos = len(self.videos.labels)
        return min(num_videos, self.variant.num_videos or num_videos) if self.is_training else num_videos

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        variant = self.variant
        place, offset = torch.rand(2).tolist() if self.is_training else (self.place, 0.5)
        position_ids = self.videos.position_ids[index].numpy()
        chosen = choose_frames(position_ids, variant.num_frames, variant.span, place, offset)
        # Positions count from the start of a clip, as in the original, and of a whole video.
        start = 0 if variant.span is None else position_ids[chosen[0]]
        position_ids = torch.from_numpy(position_ids[chosen] - start)
        if variant.is_shuffled:
            chosen = chosen[torch.randperm(len(chosen)).numpy()]
        name = "pixel_values" if variant.trains_backbone else "inputs_embeds"
        load = self.videos.read_pixels if variant.trains_backbone else self.videos.read_features
        return {name: load(index, chosen), "position_ids": position_ids, "labels": self.videos.labels[index]}


class Videos:
    """A split of a task: the cached features in memory, and the frames that they were computed from."""

    def __init__(self, task: str, split: str, features_dir: Path, processor: VTNVideoProcessor):
        cache = CachedClips(features_dir, split)
        examples = [cache[index] for index in range(len(cache))]
        self.features = [example["inputs_embeds"] for example in examples]
        self.position_ids = [example["position_ids"] for example in examples]
        self.labels = cache.labels
        self.task = task
        self.split = split
        self.processor = processor

    def read_features(self, index: int, chosen: np.ndarray) -> torch.Tensor:
        """(frames, features)"""
        return self.features[index][chosen]

    def read_pixels(self, index: int, chosen: np.ndarray) -> torch.Tensor:
        """(frames, 3, height, width)"""
        frames = draw_frames(self.task, self.split, index)[chosen]
        return self.processor(frames, do_sample_frames=False, return_tensors="pt")["pixel_values"][0]


def make_model(variant: Variant, task: str, backbone: PreTrainedModel) -> PreTrainedModel:
    """The model of a variant, with the weights of the backbone and everything else random."""
    config = VTNConfig(
        backbone_config=backbone.config.to_dict(),
        num_frames=variant.num_frames,
        id2label=dict(enumerate(CLASS_NAMES[task])),
        label2id={name: label for label, name in enumerate(CLASS_NAMES[task])},
        **{**ENCODER, **variant.fields},
    )
    model = variant.model(config)
    model.vtn.backbone.load_state_dict(backbone.state_dict())
    return model


def predict(trainer: Trainer, clips: Clips) -> torch.Tensor:
    """Class probabilities, (videos, classes)."""
    return torch.from_numpy(trainer.predict(clips).predictions).softmax(dim=-1)


def evaluate(trainer: Trainer, name: str, videos: Videos) -> dict[str, float]:
    """Top-1 of a trained variant under each protocol that it can be tested by."""
    variant = VARIANTS[name]
    top1 = {}

    def score(protocol: str, probabilities: torch.Tensor):
        top1[protocol] = (probabilities.argmax(dim=-1) == videos.labels).double().mean().item()

    if variant.span is None:
        score("whole video", predict(trainer, Clips(videos, variant, is_training=False)))
    if variant.model is VTNForVideoClassification and variant.starts_from is None:
        span = variant.span or CLIP_SPAN
        clip = Variant(num_frames=CLIP_NUM_FRAMES if variant.span is None else variant.num_frames, span=span)
        views = [
            predict(trainer, Clips(videos, clip, is_training=False, place=place))
            for place in np.linspace(0, 1, NUM_CLIPS)
        ]
        score("clips", torch.stack(views).mean(dim=0))
    if name == "250 frames":
        for num_frames in FRAME_COUNTS:
            score(f"{num_frames} frames", predict(trainer, Clips(videos, Variant(num_frames=num_frames), False)))
    return top1


def run_cell(
    name: str, task: str, seed: int, splits: dict[str, Videos], backbone: PreTrainedModel, output_dir: Path
) -> None:
    """Trains and evaluates a cell and leaves its folder."""
    variant = VARIANTS[name]
    cell_dir = output_dir / "cells" / task / name / f"seed{seed}"
    set_seed(seed)
    settings = TRAINING | TASK_TRAINING[task]
    if variant.starts_from is None:
        model = make_model(variant, task, backbone)
    else:
        model = variant.model.from_pretrained(cell_dir.parents[1] / variant.starts_from / cell_dir.name)
        settings |= {"num_train_epochs": 1, "learning_rate": TRAINING["learning_rate"] / 3}
    if not variant.trains_backbone:
        model.vtn.freeze_backbone()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(cell_dir),
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["labels"],
            use_cpu=not torch.cuda.is_available(),
            **settings,
        ),
        train_dataset=Clips(splits["train"], variant, is_training=True),
        data_collator=default_data_collator,
    )
    start = time.monotonic()
    trainer.train()
    train_sec = time.monotonic() - start
    top1 = evaluate(trainer, name, splits["val"])
    result = {"task": task, "variant": name, "seed": seed, "train_sec": train_sec, "top1": top1}

    model.save_pretrained(cell_dir)
    processor = splits["val"].processor
    processor.num_frames = variant.num_frames
    processor.save_pretrained(cell_dir)
    processor.to_image_processor().save_pretrained(cell_dir)
    # Last, as it says that the cell is complete.
    (cell_dir / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def prepare_backbone(start_dir: str, output_dir: Path) -> str:
    """Trains the backbone of the grid, if it is not there yet, and says where it is."""
    backbone_dir = output_dir / "backbone"
    if not (backbone_dir / "backbone.json").exists():
        set_seed(0)
        model = VTNForVideoClassification.from_pretrained(start_dir)
        processor = VTNVideoProcessor.from_pretrained(start_dir)
        quality = train_backbone(model, processor, BACKBONE_STEPS)
        model.save_pretrained(backbone_dir)
        processor.save_pretrained(backbone_dir)
        # Last, as it says that the backbone is complete.
        (backbone_dir / "backbone.json").write_text(json.dumps(quality, indent=2) + "\n", encoding="utf-8")
    return str(backbone_dir)


def draw_frames(task: str, split: str, index: int) -> np.ndarray:
    """The frames that `write_event_videos(task, …, seed=0)` encodes."""
    class_name = CLASS_NAMES[task][index % len(CLASS_NAMES[task])]
    return draw_event_video(task, class_name, make_generator(0, split, index))[0]


def write_features(task: str, split: str, backbone_dir: str, path: Path, indices: range):
    """Draws videos and writes what the backbone makes of their frames, as a shard of a feature cache."""
    torch.set_num_threads(1)
    model = VTNForVideoClassification.from_pretrained(backbone_dir).eval()
    processor = VTNVideoProcessor.from_pretrained(backbone_dir)
    videos = []
    for index in indices:
        pixels = processor(draw_frames(task, split, index), do_sample_frames=False, return_tensors="pt")
        with torch.inference_mode():
            features = model.vtn.get_frame_features(pixels["pixel_values"])[0]
        label = index % len(CLASS_NAMES[task])
        clip = (features, torch.arange(len(features)))
        videos.append({"path": f"{split}_{index:06d}", "label": label, "fps": None, "clips": [clip]})
    write_shard(path, videos)


def prepare(task: str, backbone_dir: str, output_dir: Path, num_workers: int | None) -> dict[str, "Videos"]:
    """Computes the features of a task as far as they are not there yet, and reads them."""
    features_dir = output_dir / "features" / task
    processor = VTNVideoProcessor.from_pretrained(backbone_dir)
    info = FeatureCacheInfo(
        backbone_name_or_path=backbone_dir,
        backbone_sha256=hash_weights(VTNForVideoClassification.from_pretrained(backbone_dir).vtn.backbone),
        processor=json.loads(processor.to_json_string()),
    )
    info.save(features_dir)
    shards = {split: [] for split in SPLITS}
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn")) as pool:
        computed = []
        for split, num_videos in zip(SPLITS, NUM_VIDEOS[task], strict=True):
            for first in range(0, num_videos, VIDEOS_PER_SHARD):
                path = features_dir / split / f"shard-{first // VIDEOS_PER_SHARD:05d}.safetensors"
                indices = range(first, min(first + VIDEOS_PER_SHARD, num_videos))
                if not path.exists():
                    computed.append(pool.submit(write_features, task, split, backbone_dir, path, indices))
                shards[split].append(path)
        for shard in tqdm(computed, desc=f"features of {task}", unit="shard"):
            shard.result()
    splits = {split: [video for path in paths for video in read_shard(path)] for split, paths in shards.items()}
    CacheIndex(list(CLASS_NAMES[task]), splits).save(features_dir)
    return {split: Videos(task, split, features_dir, processor) for split in SPLITS}


def list_cells(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """The cells asked for that are not there yet: task, name of the variant, seed. First seed first."""
    for seed in options.seeds:
        for name in VARIANTS:
            for task in options.tasks:
                result = options.output_dir / "cells" / task / name / f"seed{seed}" / "result.json"
                if re.search(options.only, name) and not result.exists():
                    yield task, name, seed


def main():
    """Runs what is missing of the grid and reports what is there."""
    parser = argparse.ArgumentParser(description="Ablations of the temporal encoder on long videos.")
    parser.add_argument("--backbone", default="runs/motion_clips", help="a VTN, whose backbone to start from")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ablations"), help="everything that is made")
    parser.add_argument("--report_dir", type=Path, default=Path("docs/reports"), help="tables and figures")
    parser.add_argument("--tasks", nargs="+", choices=CLASS_NAMES, default=list(CLASS_NAMES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", default="", help="regular expression on the names of the variants")
    parser.add_argument("--num_workers", type=int, help="processes that compute features; default: one per core")
    parser.add_argument("--report_only", action="store_true", help="train nothing")
    options = parser.parse_args()
    if not options.report_only:
        backbone_dir = prepare_backbone(options.backbone, options.output_dir)
        backbone = VTNForVideoClassification.from_pretrained(backbone_dir).vtn.backbone
        splits = {task: prepare(task, backbone_dir, options.output_dir, options.num_workers) for task in options.tasks}
        for task, name, seed in tqdm(list(list_cells(options)), unit="cell"):
            run_cell(name, task, seed, splits[task], backbone, options.output_dir)
    write_report(options.output_dir / "cells", options.report_dir)


if __name__ == "__main__":
    main()
