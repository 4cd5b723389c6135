"""What becomes of the pictures of a video: the arguments that training and extraction share, and what they ask for."""

from dataclasses import dataclass, field
from typing import Any

from .. import VTNVideoProcessor
from ..data.augmentation import ClipAugmentation
from .arguments import HELP, parse_json


AUGMENTATION = ("resize_range", "crop_scale", "flip_prob", "warp", "rand_augment", "erasing_prob")


@dataclass(kw_only=True)
class PixelArguments:
    """Frames, sizes and augmentation."""

    num_frames: int | None = field(
        default=None, metadata={"help": "frames of a video, at most, spread over all of it; default: 250"}
    )
    fps: float | None = field(default=None, metadata={"help": HELP["fps"]})
    resize_to: list[int] | None = field(
        default=None, metadata={"help": "pixels of the short side after resizing, or of height and width"}
    )
    crop_size: int | None = field(default=None, metadata={"help": "pixels of the square centre crop"})
    processor_config: str | None = field(
        default=None, metadata={"help": "other arguments of VTNVideoProcessor, as JSON: image_mean, frame_sampling, …"}
    )
    resize_range: list[int] | None = field(
        default=None,
        metadata={"help": "augmentation: a random short side between these two, and the crop anywhere"},
    )
    crop_scale: list[float] | None = field(
        default=None,
        metadata={"help": "instead of it: a random part of the picture, with a share of its area between these two"},
    )
    flip_prob: float = field(
        default=0.0, metadata={"help": "probability of mirroring; 0 where the classes tell left from right"}
    )
    warp: list[float] | None = field(
        default=None,
        metadata={"help": "stretches, shifts and turns the picture by up to these shares and degrees, as 0.2 0.05 5"},
    )
    rand_augment: list[int] | None = field(
        default=None, metadata={"help": "number and magnitude of RandAugment's operations; needs torchvision"}
    )
    erasing_prob: float = field(default=0.0, metadata={"help": "probability of covering a part of the picture"})

    def make_processor(self, model: str | None, backbone: str | None) -> VTNVideoProcessor:
        """The processor of a model, or of an image model, or the default one, with what the arguments override."""
        overrides: dict[str, Any] = {"num_frames": self.num_frames or 250}
        if self.fps is not None:
            overrides["fps"] = self.fps
        if self.resize_to is not None:
            names = ("shortest_edge",) if len(self.resize_to) == 1 else ("height", "width")
            overrides["size"] = dict(zip(names, self.resize_to, strict=True))
        if self.crop_size is not None:
            overrides["crop_size"] = {"height": self.crop_size, "width": self.crop_size}
        overrides |= parse_json("processor_config", self.processor_config or "{}")
        if model is not None:
            return VTNVideoProcessor.from_pretrained(model, **overrides)
        if backbone is not None:
            return VTNVideoProcessor.from_backbone_pretrained(backbone, **overrides)
        return VTNVideoProcessor(**overrides)

    def make_augmentation(self, processor: VTNVideoProcessor) -> ClipAugmentation | None:
        """What is done to pictures beyond it, if anything is."""
        settings = {name: getattr(self, name) for name in AUGMENTATION if getattr(self, name)}
        return ClipAugmentation(processor, **settings) if settings else None
