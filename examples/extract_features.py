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
import zlib
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader
from tqdm import tqdm
from train import DataArguments, ModelArguments, make_augmentation, make_processor
from transformers import AutoConfig, HfArgumentParser
from transformers.modeling_utils import PreTrainedModel

from vtn_hf import VTNModel, VTNVideoProcessor
from vtn_hf.backbone_vtn import encode_frames, load_backbone
from vtn_hf.data.arguments import CollectionArguments
from vtn_hf.data.augmentation import ClipAugmentation
from vtn_hf.data.class_names import read_class_names
from vtn_hf.data.collection import Collection
from vtn_hf.data.feature_cache import FeatureCacheInfo, hash_weights, read_shard_paths, write_shard
from vtn_hf.video_decoding_vtn import VideoDecodeError, decode_video


AUGMENTATION = ("resize_range", "crop_scale", "flip_prob", "rand_augment", "erasing_prob")


@dataclass(kw_only=True)
class ExtractionArguments(CollectionArguments):
    """What to compute and where to put it. What is called as in train.py means the same."""

    data_dir: str = field(
        metadata={"help": "Folder of videos, in a layout of vtn_hf.data.layouts, such as {train,val}/CLASS/VIDEO."}
    )
    backbone_name_or_path: str = field(
        metadata={"help": "An image model, or a VTN whose backbone to use: a directory or a repository."}
    )
    output_dir: str = field(metadata={"help": "Folder for the features: a new one, or one to go on with."})
    class_names: str | None = field(
        default=None,
        metadata={"help": "kinetics400, kinetics600, kinetics700 or a file with a class per line; default: as found."},
    )
    num_frames: int = field(default=250, metadata={"help": "Frames of a video, at most, spread over all of it."})
    resize_to: list[int] | None = field(
        default=None, metadata={"help": "Pixels of the short side after resizing, or of height and width."}
    )
    crop_size: int | None = field(default=None, metadata={"help": "Pixels of the square centre crop."})
    processor_config: str | None = field(
        default=None, metadata={"help": "Other arguments of VTNVideoProcessor, as JSON: image_mean, frame_sampling, …"}
    )
    num_views: int = field(
        default=1,
        metadata={
            "help": "Views of each training video: the centre crop, and others that are augmented as told below."
        },
    )
    resize_range: list[int] | None = field(
        default=None, metadata={"help": "Least and greatest short side; the crop is taken anywhere."}
    )
    crop_scale: list[float] | None = field(
        default=None, metadata={"help": "Instead of it: least and greatest share of the picture's area."}
    )
    flip_prob: float = field(default=0.0, metadata={"help": "Probability of mirroring a view."})
    rand_augment: list[int] | None = field(
        default=None, metadata={"help": "Number and magnitude of RandAugment's operations; needs torchvision."}
    )
    erasing_prob: float = field(default=0.0, metadata={"help": "Probability of covering a part of a view."})
    dtype: str = field(default="float16", metadata={"help": "Of the features on disk: float16 or float32."})
    frames_per_chunk: int = field(default=32, metadata={"help": "Frames per call of the backbone."})
    videos_per_shard: int = field(
        default=32, metadata={"help": "Videos per file; those of an unfinished file are lost when a run is stopped."}
    )
    num_workers: int = field(default=2, metadata={"help": "Processes that decode videos, for each process here."})
    use_cpu: bool = field(
        default=False, metadata={"help": "Compute on the CPU; several processes without GPUs need to be told."}
    )

    def to_data_arguments(self) -> DataArguments:
        """Those that train.py has too."""
        shared = {each.name for each in fields(self)} & {each.name for each in fields(DataArguments)}
        return DataArguments(eval_num_frames=self.num_frames, **{name: getattr(self, name) for name in shared})


class WholeVideo:
    """
    Turns rows of the collection into what [`write_shard`] takes, with pixels in the place of features. The first view
    is what the processor gives; what the others are depends on the name of the video and nothing else.
    """

    def __init__(self, processor: VTNVideoProcessor, augmentation: ClipAugmentation | None, num_views: int):
        self.processor = processor
        self.augmentation = augmentation
        self.num_views = num_views
        settings = {name: getattr(processor, name) for name in ("num_frames", "fps", "frame_sampling")}
        self.sample_frames = partial(processor.sample_frames, **settings) if processor.do_sample_frames else None

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        return {"video": [self._load(*row) for row in zip(rows["video"], rows["name"], rows["label"], strict=True)]}

    def _load(self, video: dict, name: str, label: int | list[int]) -> dict:
        entry = {"path": video["path"], "label": label}
        try:
            frames, metadata = decode_video(video["bytes"] or video["path"], self.sample_frames)
        except VideoDecodeError as error:
            return entry | {"error": str(error)}
        position_ids = torch.as_tensor(metadata.frames_indices)
        clips = [(self._to_pixels(frames), position_ids)]
        frames = torch.from_numpy(frames).permute(0, 3, 1, 2)
        for view in range(1, self.num_views):
            generator = np.random.default_rng([zlib.crc32(name.encode()), view])
            pixels = self._to_pixels(
                self.augmentation(frames, generator),
                do_resize=False,
                do_center_crop=False,
                input_data_format="channels_first",
            )
            clips.append((pixels, position_ids))
        return entry | {"fps": metadata.fps, "clips": clips}

    def _to_pixels(self, frames: np.ndarray | torch.Tensor, **kwargs) -> torch.Tensor:
        return self.processor(frames, do_sample_frames=False, return_tensors="pt", **kwargs)["pixel_values"][0]


def load_parts(args: ExtractionArguments) -> tuple[PreTrainedModel, VTNVideoProcessor]:
    """The backbone, of an image model or of a VTN, and the processor that goes with it."""
    data_args = args.to_data_arguments()
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


def begin_cache(
    args: ExtractionArguments,
    backbone: PreTrainedModel,
    processor: VTNVideoProcessor,
    collection: Collection,
) -> FeatureCacheInfo:
    """Writes down what makes the features, or makes sure that those which are there were made in the same way."""
    info = FeatureCacheInfo(
        backbone_name_or_path=args.backbone_name_or_path,
        backbone_sha256=hash_weights(backbone),
        processor=json.loads(processor.to_json_string()),
        class_names=collection.class_names,
        num_videos=collection.num_videos,
        videos_per_shard=args.videos_per_shard,
        num_views=args.num_views,
        augmentation={name: getattr(args, name) for name in AUGMENTATION} if args.num_views > 1 else None,
        dtype=args.dtype,
        missing={split: names for split, names in collection.missing.items() if names},
    )
    info.save(args.output_dir)
    return info


class VideoEncoder:
    """
    Turns what [`WholeVideo`] gives into what [`write_shard`] takes: pixels into features, and several labels, where
    `num_labels` is told, into zeros and ones.
    """

    def __init__(self, accelerator: Accelerator, backbone: PreTrainedModel, chunk_size: int, num_labels: int | None):
        self.accelerator = accelerator
        self.backbone = backbone.to(accelerator.device).eval()
        self.chunk_size = chunk_size
        self.num_labels = num_labels

    @torch.no_grad()
    def __call__(self, video: dict) -> dict:
        if "error" in video:
            return video
        if self.num_labels is not None:
            video["label"] = np.isin(np.arange(self.num_labels), video["label"]).astype(np.float32)
        clips = []
        for pixels, position_ids in video["clips"]:
            with self.accelerator.autocast():
                features = encode_frames(self.backbone, pixels.to(self.accelerator.device), chunk_size=self.chunk_size)
            clips.append((features.cpu(), position_ids))
        return video | {"clips": clips}


def extract_split(
    split: str, videos: Dataset, shards: list[Path], load: WholeVideo, encode: VideoEncoder, args: ExtractionArguments
):
    """Computes the shards of a split that are not there yet; each process takes its share of them."""
    accelerator = encode.accelerator
    parts = [
        videos.select(range(first, min(first + args.videos_per_shard, len(videos))))
        for first in range(0, len(videos), args.videos_per_shard)
    ]
    todo = [part for part in zip(shards, parts, strict=True) if not is_complete(*part)]
    accelerator.print(f"{split}: {len(todo)} of {len(parts)} shards are to be computed.")
    accelerator.wait_for_everyone()
    mine = todo[accelerator.process_index :: accelerator.num_processes]
    if not mine:
        return
    # One stream over all shards, so that the workers need not wait where one ends.
    stream = concatenate_datasets([part for _, part in mine]).with_transform(load)
    stream = DataLoader(stream, batch_size=None, num_workers=args.num_workers)
    stream = iter(tqdm(stream, desc=split, unit="video", disable=not accelerator.is_main_process))
    for path, part in mine:
        write_shard(path, [encode(next(stream)["video"]) for _ in part], args.dtype)


def extract(args: ExtractionArguments):
    """Computes the features that are not there yet, shard by shard."""
    accelerator = Accelerator(cpu=args.use_cpu)
    collection = args.read(args.class_names and read_class_names(args.class_names))
    accelerator.print(collection.describe())
    collection.check_training(needs_val=args.val_share is None)
    backbone, processor = load_parts(args)
    augmentation = make_augmentation(args.to_data_arguments(), processor)["augmentation"]
    if (args.num_views > 1) != (augmentation is not None):
        raise ValueError(f"num_views={args.num_views}: more than one view needs an augmentation, and the other way.")
    with accelerator.main_process_first():
        info = begin_cache(args, backbone, processor, collection)
    num_labels = len(info.class_names) if collection.is_multi_label else None
    encode = VideoEncoder(accelerator, backbone, args.frames_per_chunk, num_labels)

    for split, videos in collection.videos.items():
        load = WholeVideo(processor, augmentation, args.num_views if split == "train" else 1)
        extract_split(split, videos, info.list_shards(args.output_dir, split), load, encode, args)
    accelerator.wait_for_everyone()

    skipped = {}
    for shard in (shard for split in collection.videos for shard in info.list_shards(args.output_dir, split)):
        skipped |= read_shard_paths(shard)[1]
    accelerator.print(f"{sum(info.num_videos.values()) - len(skipped)} videos are in {args.output_dir}.")
    for path, reason in skipped.items():
        accelerator.print(f"Skipped {path}: {reason}")
    for name in (name for names in collection.missing.values() for name in names):
        accelerator.print(f"Missing {name}")


if __name__ == "__main__":
    extract(*HfArgumentParser(ExtractionArguments).parse_args_into_dataclasses())
