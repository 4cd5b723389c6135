"""
Computes the frame features of a collection of videos once, so that `vtn train` trains on them in minutes.

    vtn extract --data_dir VIDEOS --backbone_name_or_path facebook/dinov2-small --output_dir FEATURES
    vtn train --features FEATURES --recipe cached_features --output_dir RUN

Any number of processes share the work (`accelerate launch --num_processes 8 -m vtn_hf.commands.extract …`). Stopped,
the same command goes on, with any number of processes. Later it computes what is new or has changed in VIDEOS, and
drops what is gone; other settings are refused. `vtn_hf.data.feature_cache` says what is in FEATURES.
"""

import contextlib
import json
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import AutoConfig
from transformers.modeling_utils import PreTrainedModel

from .. import VTNForVideoClassification, VTNModel, VTNVideoProcessor
from ..backbone_vtn import encode_frames
from ..data.arguments import CollectionArguments
from ..data.augmentation import ClipAugmentation
from ..data.class_names import read_class_names
from ..data.extraction_plan import ExtractionPlan, Wanted, clear_cache
from ..data.feature_cache import (
    CachedVideo,
    CacheIndex,
    FeatureCacheInfo,
    hash_weights,
    pack_features,
    unpack_features,
    write_shard,
)
from ..data.file_pool import map_files
from ..data.listing import hash_video
from ..data.scan import is_about_content
from ..optimization import optimize_backbone
from ..outputs import check_outputs
from ..pretrained_backbone import load_backbone
from ..processes import find_processes, together
from ..results import one_run
from ..video_decoding_vtn import VideoDecodeError
from ..video_processing_vtn import load_video
from .arguments import HELP, DTypeName, EngineName, choose_shared_device
from .console import CommandParser, command, show
from .pixel_arguments import AUGMENTATION, PixelArguments


@dataclass(kw_only=True)
class ExtractionArguments(PixelArguments, CollectionArguments):
    """What to compute and where to put it."""

    data_dir: str = field(metadata={"help": HELP["data_dir"]})
    backbone_name_or_path: str = field(
        metadata={"help": f"{HELP['backbone_name_or_path']}: a VTN for its backbone, too"}
    )
    output_dir: str = field(metadata={"help": HELP["output_dir"]})
    class_names: str | None = field(default=None, metadata={"help": HELP["class_names"]})
    num_views: int = field(
        default=1,
        metadata={"help": "views of each training video: the centre crop, and others that are augmented"},
    )
    frame_grid: int | None = field(
        default=None, metadata={"help": "side of a grid of features beside the vector of a frame; a VTN has its own"}
    )
    feature_dtype: Literal["float16", "float32", "int8"] = field(
        default="float16", metadata={"help": "of the features on disk"}
    )
    frames_per_chunk: str = field(
        default="auto", metadata={"help": f"{HELP['frames_per_chunk']}: a number, or auto for what is best here"}
    )
    optimize: bool = field(default=True, metadata={"help": "compute with vtn_hf.optimize"})
    engine: EngineName | None = field(default=None, metadata={"help": HELP["engine"]})
    videos_per_shard: int = field(
        default=32, metadata={"help": "videos per file; those of an unfinished file are lost when a run is stopped"}
    )
    overwrite: bool = field(default=False, metadata={"help": HELP["overwrite"]})
    device: str | None = field(default=None, metadata={"help": HELP["device"]})
    dtype: DTypeName | None = field(default=None, metadata={"help": HELP["dtype"]})
    num_workers: int = field(default=2, metadata={"help": HELP["num_workers"]})
    time_limit_sec: float = field(default=600, metadata={"help": HELP["time_limit_sec"]})
    memory_limit_gib: float = field(default=8, metadata={"help": HELP["memory_limit_gib"]})

    def make_accelerator(self) -> Accelerator:
        """Where to compute, and in which precision, unless that is up to an engine."""
        device = choose_shared_device(self.device)
        find_processes(device)
        names = {None: None, "float32": "no", "bfloat16": "bf16", "float16": "fp16"}
        return Accelerator(cpu=device.type == "cpu", mixed_precision="no" if self.has_engine else names[self.dtype])

    @property
    def has_engine(self) -> bool:
        """Whether something else than PyTorch may run the backbone."""
        return self.engine not in (None, "torch")


class WholeVideo:
    """
    Turns a video into what [`write_shard`] takes, with pictures in the place of features: bytes if the protocol has
    bytes, which are small on their way between processes. The first view is what the processor gives; what the others
    are depends on the name of the video and nothing else.
    """

    def __init__(self, processor: VTNVideoProcessor, augmentation: ClipAugmentation | None):
        self.limits = processor.limits
        self.augmentation = augmentation
        pixels = processor.pixel_settings
        self.pixels = replace(pixels, do_rescale=False, do_normalize=False) if pixels.has_bytes else pixels
        self.bare = replace(self.pixels, do_rescale=False, do_normalize=False, do_flip_channel_order=False)
        self.normalize = None if pixels.has_bytes else pixels.normalize
        settings = {name: getattr(processor, name) for name in ("num_frames", "fps", "frame_sampling")}
        self.sample_frames = partial(processor.sample_frames, **settings) if processor.do_sample_frames else None

    def __call__(self, wanted: Wanted) -> dict:
        entry = asdict(wanted.video)
        try:
            entry["sha256"] = hash_video(wanted.video.path)
            clips = [self._load(wanted.video, view) for view in range(wanted.num_clips)]
        except VideoDecodeError as error:
            return entry | {"error": str(error), "final": is_about_content(error)}
        except (OSError, MemoryError) as error:
            return entry | {"error": f"{wanted.video.path}: {error or 'its memory does not suffice'}", "final": False}
        return entry | {"fps": clips[0][2], "clips": [clip[:2] for clip in clips]}

    def _load(self, video: CachedVideo, view: int) -> tuple[np.ndarray, np.ndarray, float | None]:
        """Pictures, numbers of the frames, and frame rate."""
        if view == 0:
            pictures, metadata = load_video(video.source, self.sample_frames, self.pixels, self.limits)
        else:
            generator = np.random.default_rng([zlib.crc32(video.name.encode()), view])
            choose_view = partial(self.augmentation.choose_view, generator=generator)
            pictures, metadata = load_video(
                video.source, self.sample_frames, self.bare, self.limits, choose_view=choose_view
            )
            pictures = self.augmentation.change(pictures, generator)
            pictures = pictures if self.normalize is None else self.normalize(pictures)
        return pictures.numpy(), np.asarray(metadata.frames_indices), metadata.fps


def load_videos(load: WholeVideo, videos: list[Wanted], args: ExtractionArguments) -> Iterator[tuple[Wanted, dict]]:
    """
    Loads videos, in processes that may crash or hang without taking the others along.

    Yields:
        A video and what [`WholeVideo`] makes of it, as they are ready.
    """
    if args.num_workers == 0:
        yield from ((video, load(video)) for video in videos)
        return
    for video, result in map_files(load, videos, args.num_workers, args.time_limit_sec, args.memory_limit_gib):
        if isinstance(result, (TimeoutError, ChildProcessError)):
            result = asdict(video.video) | {"error": f"{video.video.path}: {result}", "final": False}
        elif isinstance(result, Exception):
            raise result
        yield video, result


def load_parts(args: ExtractionArguments) -> tuple[PreTrainedModel, VTNVideoProcessor]:
    """An image model, or a VTN for its backbone, and the processor that goes with it; it settles the grid."""
    name = args.backbone_name_or_path
    config = AutoConfig.from_pretrained(name)
    if config.model_type != "vtn":
        return load_backbone(name).float(), args.make_processor(None, name)
    if args.frame_grid not in (None, config.frame_grid):
        raise ValueError(f"frame_grid={args.frame_grid}: {name} has {config.frame_grid}; leave it out.")
    args.frame_grid = config.frame_grid
    is_classifier = config.architectures == ["VTNForVideoClassification"]
    model_class = VTNForVideoClassification if is_classifier else VTNModel
    return model_class.from_pretrained(name), args.make_processor(name, None)


def begin_cache(args: ExtractionArguments, backbone: PreTrainedModel, processor: VTNVideoProcessor):
    """Writes down what makes the features, or makes sure that those which are there were made in the same way."""
    info = FeatureCacheInfo(
        backbone_name_or_path=args.backbone_name_or_path,
        backbone_sha256=hash_weights(backbone),
        processor=json.loads(processor.to_json_string()),
        num_views=args.num_views,
        augmentation={name: getattr(args, name) for name in AUGMENTATION} if args.num_views > 1 else None,
        dtype=args.feature_dtype,
        frame_grid=args.frame_grid,
    )
    if args.overwrite:
        clear_cache(Path(args.output_dir))
    info.save(args.output_dir)


def find_backbone(model: PreTrainedModel) -> PreTrainedModel:
    """That of a VTN; an image model is one."""
    return model.base_model.backbone if model.config.model_type == "vtn" else model


class VideoEncoder:
    """Turns what [`WholeVideo`] gives into what [`write_shard`] takes: pictures into features."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: PreTrainedModel,
        processor: VTNVideoProcessor,
        args: ExtractionArguments,
    ):
        self.accelerator = accelerator
        self.model = model.to(accelerator.device).eval()
        self.backbone = find_backbone(model)
        self.frame_grid, self.feature_dtype, self.is_compared = args.frame_grid, args.feature_dtype, False
        self.pixels = processor.pixel_settings
        self.chunk_size = args.frames_per_chunk if args.frames_per_chunk == "auto" else int(args.frames_per_chunk)
        if args.has_engine and not args.optimize:
            raise ValueError(f"--engine {args.engine} is part of what --no_optimize leaves out.")
        if args.optimize:
            dtype = args.dtype if args.has_engine else None
            self.backbone = optimize_backbone(self.backbone, args.engine, dtype, self.frame_grid)

    @torch.no_grad()
    def __call__(self, video: dict) -> dict:
        if video["error"]:
            return video
        clips = []
        for pictures, position_ids in video["clips"]:
            pictures = torch.from_numpy(pictures).to(self.accelerator.device)
            pixels = self.pixels.normalize(pictures) if self.pixels.has_bytes else pictures
            with self.accelerator.autocast():
                features = encode_frames(self.backbone, pixels, chunk_size=self.chunk_size, frame_grid=self.frame_grid)
            clips.append((features.cpu(), torch.from_numpy(position_ids)))
        if not self.is_compared and self.feature_dtype != "float32":
            self.is_compared = True  # of the first video
            self.accelerator.print(self.describe_rounding(*clips[0]))
        return video | {"clips": clips}

    def describe_rounding(self, features: torch.Tensor, position_ids: torch.Tensor) -> str:
        """What the dtype on disk changes in a video: the logits of a classifier, else the features."""
        features = features.float()
        rounded, name = unpack_features(*pack_features(features, self.feature_dtype)), "features"
        if isinstance(self.model, VTNForVideoClassification):
            inputs = {"position_ids": position_ids[None].long().to(self.model.device)}
            features, rounded = (
                self.model(inputs_embeds=each[None].to(self.model.device, self.model.dtype), **inputs).logits.float()
                for each in (features, rounded)
            )
            name = "logits"
        difference, largest = (rounded - features).abs().max(), features.abs().max()
        return f"{self.feature_dtype} changes {name} of up to {largest:.3g} by at most {difference:.2g}."


def extract_split(
    split: str,
    shards: list[tuple[Path, list[Wanted]]],
    load: WholeVideo,
    encode: VideoEncoder,
    args: ExtractionArguments,
):
    """Computes shards of a split; each process takes its share of them."""
    accelerator = encode.accelerator
    mine = shards[accelerator.process_index :: accelerator.num_processes]
    # One stream over all shards, so that nobody waits where one ends.
    videos = [video for _, part in mine for video in part]
    loaded = load_videos(load, videos, args)
    is_main = accelerator.is_main_process
    number_of = {id(video): number for number, (_, part) in enumerate(mine) for video in part}
    computed: dict[int, dict[int, dict]] = defaultdict(dict)
    for video, pictures in tqdm(loaded, total=len(videos), desc=split, unit="video", disable=not is_main):
        number = number_of[id(video)]
        path, part = mine[number]
        computed[number][id(video)] = encode(pictures)
        if len(computed[number]) == len(part):
            shard = computed.pop(number)
            write_shard(path, [shard[id(each)] for each in part], args.feature_dtype)


def extract(args: ExtractionArguments):
    """Computes the features that are not there yet, shard by shard."""
    accelerator = args.make_accelerator()
    output_dir = Path(args.output_dir)
    if args.dataset_name is not None:
        raise ValueError(
            "Features are extracted of files, which are known by path, size and content: give --data_dir, and leave "
            "--dataset_name out. (Files of a data set on the Hub come with `hf download NAME --repo-type dataset`.)"
        )
    check_outputs([output_dir], [args.data_dir], overwrite=True)
    collection = args.read(args.class_names and read_class_names(args.class_names))
    accelerator.print(collection.describe())
    collection.check_training(needs_val=args.val_share is None)
    model, processor = load_parts(args)
    augmentation = args.make_augmentation(processor)
    if (args.num_views > 1) != (augmentation is not None):
        raise ValueError(f"num_views={args.num_views}: more than one view needs an augmentation, and the other way.")
    load = WholeVideo(processor, augmentation)
    encode = VideoEncoder(accelerator, model, processor, args)
    output_dir.mkdir(parents=True, exist_ok=True)
    with one_run(output_dir) if accelerator.is_main_process else contextlib.nullcontext():
        if accelerator.is_main_process:
            begin_cache(args, find_backbone(model), processor)
        accelerator.wait_for_everyone()
        plan = ExtractionPlan(output_dir, collection, args.num_views)
        accelerator.print("\n".join(plan.notes))
        shards = {split: plan.list_shards(split, args.videos_per_shard) for split in plan.to_do}
        accelerator.wait_for_everyone()  # nobody writes while another one still looks
        for split, parts in shards.items():
            extract_split(split, parts, load, encode, args)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            report(plan.finish(), output_dir)


def report(index: CacheIndex, output_dir: Path):
    """Says what is there and what is not."""
    videos = [video for split in index.splits.values() for video in split]
    skipped = [video for video in videos if video.error]
    print(f"{len(videos) - len(skipped)} videos are in {output_dir}.")
    for video in skipped:
        show(f"Skipped {video.path}: {video.error}")
    for name in (name for names in index.missing.values() for name in names):
        print(f"Missing {name}")
    for name, reason in (each for reasons in index.bad.values() for each in reasons.items()):
        print(f"Left out {name}: {reason}")


def make_parser() -> CommandParser:
    parser = CommandParser("extract", __doc__)
    parser.add_fields(ExtractionArguments, names=ExtractionArguments.__annotations__)
    parser.add_fields(ExtractionArguments, "frames and pictures", PixelArguments.__annotations__)
    parser.add_fields(ExtractionArguments, "the collection")
    return parser


@command("extract")
def main(argv: list[str] | None = None):
    """Extracts as the arguments say."""
    (args,) = make_parser().parse(argv)
    with together():
        extract(args)


if __name__ == "__main__":
    sys.exit(main())
