"""
Computes the frame features of a collection of videos once, so that `train.py --features` trains on them in minutes.

    accelerate launch examples/extract_features.py --data_dir VIDEOS --backbone_name_or_path facebook/dinov2-small \
        --output_dir FEATURES
    accelerate launch examples/train.py --features FEATURES --output_dir RUN

Any number of processes share the work (`accelerate launch --num_processes 8`), in half precision if they are told to
(`--mixed_precision bf16`). Stopped, the same command goes on, with any number of processes. What is in FEATURES is
written down in `vtn_hf.data.feature_cache`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader
from tqdm import tqdm
from train import DataArguments, ModelArguments, make_processor
from transformers import AutoConfig, HfArgumentParser
from transformers.modeling_utils import PreTrainedModel

from vtn_hf import VTNModel, VTNVideoProcessor
from vtn_hf.backbone_vtn import encode_frames, load_backbone
from vtn_hf.data.feature_cache import FeatureCacheInfo, hash_weights, read_shard_paths, write_shard
from vtn_hf.data.kinetics import load_videos
from vtn_hf.video_decoding_vtn import VideoDecodeError


@dataclass
class ExtractionArguments:
    """What to compute and where to put it."""

    data_dir: str = field(metadata={"help": "Folder with train/CLASS/VIDEO and val/CLASS/VIDEO."})
    backbone_name_or_path: str = field(
        metadata={"help": "An image model, or a VTN whose backbone to use: a directory or a repository."}
    )
    output_dir: str = field(metadata={"help": "Folder for the features: a new one, or one to go on with."})
    num_frames: int = field(default=250, metadata={"help": "Frames of a video, at most, spread over all of it."})
    resize_to: list[int] | None = field(
        default=None, metadata={"help": "Pixels of the short side after resizing, or of height and width."}
    )
    crop_size: int | None = field(default=None, metadata={"help": "Pixels of the square centre crop."})
    dtype: str = field(default="float16", metadata={"help": "Of the features on disk: float16 or float32."})
    frames_per_chunk: int = field(default=32, metadata={"help": "Frames per call of the backbone."})
    videos_per_shard: int = field(
        default=32, metadata={"help": "Videos per file; those of an unfinished file are lost when a run is stopped."}
    )
    num_workers: int = field(default=2, metadata={"help": "Processes that decode videos, for each process here."})
    use_cpu: bool = field(
        default=False, metadata={"help": "Compute on the CPU; several processes without GPUs need to be told."}
    )


class WholeVideo:
    """Turns rows of the collection into what [`write_shard`] takes, with pixels in the place of features."""

    def __init__(self, processor: VTNVideoProcessor):
        self.processor = processor

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        videos = [self._load(video) for video in rows["video"]]
        return {"video": [video | {"label": label} for video, label in zip(videos, rows["label"], strict=True)]}

    def _load(self, video: dict) -> dict:
        source = video["path"] if video["bytes"] is None else video["bytes"]
        try:
            inputs = self.processor(source, return_tensors="pt", return_metadata=True)
        except VideoDecodeError as error:
            return {"path": video["path"], "error": str(error)}
        return {
            "path": video["path"],
            "fps": inputs["video_metadata"][0].fps,
            "clips": [(inputs["pixel_values"][0], inputs["position_ids"][0])],
        }


def load_parts(args: ExtractionArguments) -> tuple[PreTrainedModel, VTNVideoProcessor]:
    """The backbone, of an image model or of a VTN, and the processor that goes with it."""
    data_args = DataArguments(args.data_dir, eval_num_frames=args.num_frames)
    data_args.resize_to, data_args.crop_size = args.resize_to, args.crop_size
    if AutoConfig.from_pretrained(args.backbone_name_or_path).model_type == "vtn":
        backbone = VTNModel.from_pretrained(args.backbone_name_or_path).backbone
        return backbone, make_processor(ModelArguments(model_name_or_path=args.backbone_name_or_path), data_args)
    backbone = load_backbone(args.backbone_name_or_path).float()
    return backbone, make_processor(ModelArguments(backbone_name_or_path=args.backbone_name_or_path), data_args)


def is_complete(shard: Path, videos: Dataset) -> bool:
    """Whether the features of these videos are there; if they are those of others, that is an error."""
    if not shard.is_file():
        return False
    paths, skipped = read_shard_paths(shard)
    if changed := {video["path"] for video in videos["video"]} ^ {*paths, *skipped}:
        raise ValueError(f"{shard} was made from other videos than are there now, for example {min(changed)}.")
    return True


@torch.no_grad()
def extract(args: ExtractionArguments):
    """Computes the features that are not there yet, shard by shard."""
    accelerator = Accelerator(cpu=args.use_cpu)
    backbone, processor = load_parts(args)
    collection = load_videos(args.data_dir)
    info = FeatureCacheInfo(
        backbone_name_or_path=args.backbone_name_or_path,
        backbone_sha256=hash_weights(backbone),
        processor=json.loads(processor.to_json_string()),
        class_names=collection["train"].features["label"].names,
        num_videos={split: len(videos) for split, videos in collection.items()},
        videos_per_shard=args.videos_per_shard,
        dtype=args.dtype,
    )
    with accelerator.main_process_first():
        info.save(args.output_dir)
    backbone = backbone.to(accelerator.device).eval()

    shards = []
    for split, videos in collection.items():
        for number, path in enumerate(info.list_shards(args.output_dir, split)):
            first = number * args.videos_per_shard
            shards.append((path, videos.select(range(first, min(first + args.videos_per_shard, len(videos))))))
    missing = [(path, videos) for path, videos in shards if not is_complete(path, videos)]
    accelerator.wait_for_everyone()
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    accelerator.print(f"{len(missing)} of {len(shards)} shards are to be computed.")

    # One stream over all shards, so that the workers need not wait where one ends.
    stream = DataLoader(
        concatenate_datasets([videos for _, videos in mine]).with_transform(WholeVideo(processor)) if mine else [],
        batch_size=None,
        num_workers=args.num_workers,
    )
    stream = iter(tqdm(stream, unit="video", disable=not accelerator.is_main_process))

    def encode(video: dict) -> dict:
        if "error" in video:
            return video
        with accelerator.autocast():
            clips = [
                (encode_frames(backbone, pixels.to(accelerator.device), args.frames_per_chunk).cpu(), position_ids)
                for pixels, position_ids in video["clips"]
            ]
        return video | {"clips": clips}

    for path, videos in mine:
        write_shard(path, [encode(next(stream)["video"]) for _ in videos], args.dtype)

    accelerator.wait_for_everyone()
    skipped = {path: reason for shard, _ in shards for path, reason in read_shard_paths(shard)[1].items()}
    accelerator.print(f"{sum(info.num_videos.values()) - len(skipped)} videos are in {args.output_dir}.")
    for path, reason in skipped.items():
        accelerator.print(f"Skipped {path}: {reason}")


if __name__ == "__main__":
    extract(*HfArgumentParser(ExtractionArguments).parse_args_into_dataclasses())
