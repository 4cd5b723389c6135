"""The arguments of `vtn train`, and the model and the processor that they ask for."""

import json
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoConfig

from .. import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from ..configs import find_config
from ..data.arguments import CollectionArguments
from ..data.feature_cache import FeatureCacheInfo
from ..training.checkpoints import load_to_fine_tune
from .arguments import HELP, DTypeName, choose_shared_device, parse_json
from .pixel_arguments import PixelArguments


# How cached features are changed in training.
FOR_FEATURES = ("min_time_share", "frame_drop_prob", "speed_range", "feature_drop_prob")


@dataclass
class ModelArguments:
    """What to train. Give one of the three."""

    model: str | None = field(default=None, metadata={"help": f"{HELP['model']}: to fine-tune"})
    backbone_name_or_path: str | None = field(
        default=None, metadata={"help": f"{HELP['backbone_name_or_path']}: for a new VTN"}
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
            "help": f"{HELP['clip_num_frames']}: one number, or the least and the greatest; default: 16 of a video, "
            "all of cached features"
        },
    )
    clip_duration_sec: float | None = field(
        default=None, metadata={"help": f"{HELP['clip_duration_sec']}; default: the whole video"}
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
            options["use_cpu"] = choose_shared_device(device).type == "cpu"
        if dtype is not None:
            options |= {"bf16": dtype == "bfloat16", "fp16": dtype == "float16"}
        if num_workers is not None:
            options["dataloader_num_workers"] = num_workers


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
        settings = json.dumps({"frame_grid": grid} | parse_json("model_config", settings))
    settings = parse_json("model_config", settings) | {
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
    sources = ("data_dir", "dataset_name", "features")
    if sum(getattr(data_args, name) is not None for name in sources) != 1:
        raise ValueError("Give one of --data_dir, --dataset_name and --features.")
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
